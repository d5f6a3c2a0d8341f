//! An evening on machines that lose power: every process is killed at random moments, and started again.
//! What a command has acknowledged is read by everybody, once; what it has not, at most once.
//!
//! `SEED=n` repeats the choices (who is killed, and when); the machine's own timing stays its own.

use std::thread;
use std::time::{Duration, Instant};

use tests::evening::Evening;
use tests::kith::Post;
use tests::process::Node;
use tests::seed::Chance;

/// Messages that are tried.
const MESSAGES: usize = 120;

/// Someone is killed at one of so many messages, on average.
const STRIKE_ONCE_IN: u64 = 3;

/// A strike falls within this time after a message was begun: before, while or after it is acknowledged.
const STRIKE_WITHIN: Duration = Duration::from_millis(60);

/// A start that is struck is struck within this time, before the node serves or after.
const STRIKE_START_WITHIN: Duration = Duration::from_millis(1200);

/// The name that stands for the community node among the victims.
const COMMUNITY: &str = "the community";

/// What became of one message.
struct Tried {
    text: String,
    /// The id, if the command acknowledged the message.
    id: Option<String>,
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_doubled() {
    let mut chance = Chance::from_environment();
    let mut evening = Evening::open("Lamp in the storm", "Ana", "Ana by the river");
    for (name, pseudonym) in [
        ("Ben", "Ben up before dawn"),
        ("Chloe", "Chloe with two cats"),
        ("Dev", "Dev on the bus"),
    ] {
        evening.welcomes(name, pseudonym);
    }
    evening.all_know_one_another();

    let mut victims = evening.names();
    victims.push(COMMUNITY.to_owned());
    let (mut tried, mut kills) = (Vec::new(), 0);
    let start = Instant::now();
    for number in 0..MESSAGES {
        kills += bring_some_back(&mut evening, &victims, &mut chance);
        let author = someone_there(&mut evening, &mut chance);
        let text = format!("Message {number} of a stormy evening, from {author}.");
        let struck = chance.once_in(STRIKE_ONCE_IN).then(|| {
            // Every other strike falls on the one who speaks.
            let victim = if chance.once_in(2) {
                &author
            } else {
                chance.pick(&victims)
            };
            (victim.clone(), chance.moment_before(STRIKE_WITHIN))
        });
        let struck = struck.filter(|(victim, _)| process(&mut evening, victim).is_running());
        kills += usize::from(struck.is_some());
        tried.push(speak(&mut evening, &author, text, struck));
    }
    for victim in &victims {
        let node = process(&mut evening, victim);
        if !node.is_running() {
            node.start();
        }
    }
    let acknowledged = tried.iter().filter(|message| message.id.is_some()).count();
    println!(
        "{kills} kills in {:?}; {acknowledged} of {MESSAGES} messages acknowledged",
        start.elapsed()
    );
    assert!(kills >= victims.len(), "the storm was a storm");
    assert!(
        acknowledged >= MESSAGES / 2,
        "most messages were acknowledged"
    );

    let read = evening.all_read("all that was acknowledged", |list| {
        nothing_lost_or_doubled(list, &tried)
    });
    for victim in &victims {
        let node = process(&mut evening, victim);
        node.kill();
        node.start();
    }
    let again = evening.all_read("the same after another kill", |list| {
        nothing_lost_or_doubled(list, &tried)
    });
    assert!(again == read, "the list is settled");
}

/// Lets someone speak while a strike falls on a process at its moment.
fn speak(
    evening: &mut Evening,
    author: &str,
    text: String,
    struck: Option<(String, Duration)>,
) -> Tried {
    let kith = evening.member(author).member.kith.clone();
    let group = evening.group.clone();
    let id = thread::scope(|scope| {
        let speaking = scope.spawn(|| kith.posts(&group, &text));
        if let Some((victim, moment)) = struck {
            thread::sleep(moment);
            process(evening, &victim).kill();
        }
        speaking
            .join()
            .unwrap_or_else(|_| panic!("{author}'s command went wrong: {text}"))
    });
    Tried { text, id: id.ok() }
}

/// Starts some of those that are down; some of them are struck while they start. Returns the number of kills.
fn bring_some_back(evening: &mut Evening, victims: &[String], chance: &mut Chance) -> usize {
    let mut kills = 0;
    for victim in victims {
        let node = process(evening, victim);
        if node.is_running() || !chance.once_in(3) {
            continue;
        }
        if chance.once_in(4) {
            node.start_and_kill(chance.moment_before(STRIKE_START_WITHIN));
            kills += 1;
        } else {
            node.start();
        }
    }
    kills
}

/// Picks someone whose node runs, and starts a node if there is none.
fn someone_there(evening: &mut Evening, chance: &mut Chance) -> String {
    let mut names = evening.names();
    names.retain(|name| evening.node(name).is_running());
    if names.is_empty() {
        let name = chance.pick(&evening.names()).clone();
        evening.node(&name).start();
        names.push(name);
    }
    chance.pick(&names).clone()
}

fn process<'a>(evening: &'a mut Evening, name: &str) -> &'a mut Node {
    if name == COMMUNITY {
        &mut evening.community.node
    } else {
        evening.node(name)
    }
}

fn nothing_lost_or_doubled(list: &[Post], tried: &[Tried]) -> Result<(), String> {
    let mut lost = Vec::new();
    for Tried { text, id } in tried {
        let found: Vec<_> = list.iter().filter(|post| post.text == *text).collect();
        // A message that is doubled stays doubled: there is nothing to wait for.
        assert!(found.len() <= 1, "{text:?} is doubled: {found:?}");
        match (id, found.first()) {
            (Some(id), None) => lost.push(format!("{text} ({id})")),
            (Some(id), Some(post)) => assert_eq!(*id, post.id),
            (None, _) => {}
        }
    }
    if lost.is_empty() {
        Ok(())
    } else {
        Err(format!("acknowledged and not there: {lost:?}"))
    }
}
