//! `kith read`: shows what a group says, and goes on with what comes.

use std::collections::BTreeSet;

use kith_node::api::{ENTRIES_MAX, Entries, Entry, EntryKind, GroupDetail, Notice};

use crate::args::{Cli, ReadArgs};
use crate::client::{Client, path};
use crate::error::CliError;
use crate::output::{Output, printable};

pub(crate) fn run(cli: &Cli, args: &ReadArgs, output: &mut Output) -> Result<(), CliError> {
    let client = Client::find(cli)?;
    // One id for all that follows, even if a group of the same name appears meanwhile.
    let group: GroupDetail = client.get(&path(&["groups", &args.group]))?;
    if args.follow {
        return follow(&client, &group.id, args.limit, output);
    }
    read(&client, &group.id, args.limit)?
        .iter()
        .try_for_each(|entry| output.print(entry, text))
}

/// Reads the latest entries, or all of them, oldest first.
fn read(client: &Client, group: &str, limit: Option<u32>) -> Result<Vec<Entry>, CliError> {
    let path = path(&["groups", group, "entries"]);
    let mut pages = Vec::new();
    let mut left = limit.unwrap_or(u32::MAX);
    let mut before = String::new();
    while left > 0 {
        let limit = left.min(ENTRIES_MAX);
        let Entries { entries, more } = client.get(&format!("{path}?limit={limit}{before}"))?;
        left = left.saturating_sub(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        let Some(first) = entries.first().filter(|_| more) else {
            pages.push(entries);
            break;
        };
        before = format!("&before={}", first.id);
        pages.push(entries);
    }
    Ok(pages.into_iter().rev().flatten().collect())
}

/// Prints entries as they come, until the node goes away.
fn follow(
    client: &Client,
    group: &str,
    limit: Option<u32>,
    output: &mut Output,
) -> Result<(), CliError> {
    // Listening starts before reading, so that no entry falls between the two.
    let events = client.events()?;
    // What was printed is not printed twice; as many as the group has entries.
    let mut printed = BTreeSet::new();
    let earlier = read(client, group, None)?;
    let skipped = limit.map_or(0, |limit| earlier.len().saturating_sub(limit as usize));
    for (index, entry) in earlier.into_iter().enumerate() {
        if printed.insert(entry.id.clone()) && index >= skipped {
            output.print(&entry, text)?;
        }
    }
    for notice in events {
        let fresh = match notice? {
            Notice::NewEntry { group: of, entry } if of == group => vec![entry],
            Notice::GroupChanged { group: of } if of == group => read(client, group, None)?,
            Notice::Missed { .. } => read(client, group, None)?,
            Notice::Stopping => break,
            _ => continue,
        };
        for entry in fresh {
            if printed.insert(entry.id.clone()) {
                output.print(&entry, text)?;
            }
        }
    }
    Err(client.gone())
}

fn text(entry: &Entry) -> String {
    let at = entry.at.in_local_time("%a %-d %b %Y, %H:%M");
    let subject = entry.subject.as_ref().map_or(&entry.name, |it| &it.name);
    let said = match entry.kind {
        EntryKind::Post => entry
            .text
            .lines()
            .fold(String::new(), |said, line| format!("{said}\n  {line}")),
        EntryKind::Joined => format!("\n  {subject} joined."),
        EntryKind::Removed => {
            format!(
                "\n  {} removed {subject}. The reason: {}",
                entry.name, entry.text
            )
        }
        EntryKind::Left => format!("\n  {subject} left."),
        EntryKind::Promoted => format!("\n  {} made {subject} a steward.", entry.name),
        EntryKind::Demoted if entry.is_about_author() => {
            format!("\n  {subject} stopped being a steward.")
        }
        EntryKind::Demoted => format!("\n  {} ended the stewardship of {subject}.", entry.name),
        EntryKind::Enlisted => {
            format!("\n  {} added the community node {}", entry.name, entry.text)
        }
        EntryKind::Delisted => format!(
            "\n  {} took the community node {} off the list.",
            entry.name, entry.text
        ),
        EntryKind::Rejoined => format!("\n  {subject} came back with fresh keys."),
        EntryKind::Newer => "\n  Something that needs a newer version of kith.".into(),
    };
    let mark = match entry.before_resync {
        true => "  (sent before re-sync)",
        false => "",
    };
    if entry.kind != EntryKind::Post && entry.kind != EntryKind::Newer {
        return printable(&format!("{at}{mark}{said}"));
    }
    let held = entry
        .delivery
        .map_or(String::new(), |held| format!("  ({held})"));
    printable(&format!("{}  {at}{held}{mark}{said}", entry.name))
}
