//! `kith invite`: makes, lists and takes back invites.

use kith_node::api::{Done, Invite, InviteBody, InviteCreated, Invites};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use crate::args::{Cli, InviteCommand};
use crate::client::{Client, path};
use crate::error::CliError;
use crate::output::Output;

pub(crate) fn run(cli: &Cli, command: &InviteCommand, output: &mut Output) -> Result<(), CliError> {
    let client = Client::find(cli)?;
    match command {
        InviteCommand::New {
            group,
            expires,
            uses,
        } => {
            let body = InviteBody {
                expires_ms: u64::try_from(expires.as_millis()).unwrap_or(u64::MAX),
                uses: *uses,
            };
            let invite: InviteCreated = client.post(&path(&["groups", group, "invites"]), &body)?;
            let draw = output.is_terminal();
            output.print(&invite, |invite| text(invite, draw))
        }
        InviteCommand::List { group } => {
            let Invites { invites } = client.get(&path(&["groups", group, "invites"]))?;
            invites
                .iter()
                .try_for_each(|invite| output.print(invite, line))
        }
        InviteCommand::Revoke { group, invite } => {
            let path = path(&["groups", group, "invites", invite]);
            let Done {} = client.delete(&path, &Done {})?;
            super::done(output, "The invite is taken back.")
        }
    }
}

fn text(invite: &InviteCreated, draw: bool) -> String {
    let link = invite.link.expose();
    let people = match invite.uses {
        1 => "one person".to_owned(),
        n => format!("{n} people"),
    };
    let until = invite.expires_at.in_local_time("%-d %B %Y, %H:%M");
    let mut text = format!(
        "{link}\n\nFor {people}, until {until}. Its id: {}",
        invite.id
    );
    if draw && let Some(code) = qr(link) {
        text = format!("{code}\n{text}");
    }
    text
}

/// Draws the link as a code to scan, light on dark as most terminals are.
fn qr(link: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(link, EcLevel::L).ok()?;
    let drawn = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    Some(drawn)
}

fn line(invite: &Invite) -> String {
    let until = invite.expires_at.in_local_time("%-d %B %Y, %H:%M");
    let state = if invite.revoked { ", closed" } else { "" };
    format!(
        "{}  {} of {} used, until {until}{state}",
        invite.id, invite.used, invite.uses
    )
}
