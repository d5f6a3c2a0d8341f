//! A community node that runs for long gives space back: what has expired leaves the disk, and nothing that it
//! confirmed and that has not expired goes with it.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kith_protocol::{
    envelope::{MAX_CONTENT, MAX_SIZE},
    id::EnvelopeId,
    mailbox::{Frame, Refusal},
    topic::RoutingKey,
};
use tests::clocks::Clocks;
use tests::kith::{Group, Joined};
use tests::process::{Community, Member};
use tests::spoken::{Client, envelope_at, key};
use tests::wait::{UNTIL_DELIVERED, UNTIL_READY, wait_explained, wait_until};

const MIB: u64 = 1024 * 1024;
/// Envelopes that are not for an inbox expire when their hour began so long ago.
const RETENTION: Duration = Duration::from_secs(24 * 3600);
/// The same as the node is told: the shortest that can be set.
const RETENTION_SET: &str = "retention=1d";
/// A node whose disk is full opens its store anew after ten minutes at the earliest, another one after six hours.
const FULL_NODE_WAITS: Duration = Duration::from_secs(11 * 60);

/// When in its hour the node is filled, which takes less than the rest of it.
const MIDDLE: Duration = Duration::from_secs(20 * 60);

/// The node tidies up when 64 MiB more are dead on its disk than are alive. So much comes, and one in so many is kept
/// for long, so that no file goes by itself.
const ENVELOPES: usize = 1280;
const ONE_IN: usize = 40;

/// What may lie there afterwards besides what is alive: the file that is being written, and the store's own.
const SLACK: u64 = 8 * MIB;

const JOIN_WAIT: &str = "60s";

/// The size of everything below a directory, as it lies on the disk.
fn on_disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(of) if of.is_dir() => on_disk(&entry.path()),
        Ok(of) => of.blocks() * 512,
        // It has gone in between.
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Puts as many envelopes as are taken; gives what was confirmed on both topics, the one that is kept for long second.
async fn fills(
    client: &mut Client,
    clocks: &Clocks,
    topics: &[RoutingKey; 2],
) -> [Vec<EnvelopeId>; 2] {
    let mut confirmed = [Vec::new(), Vec::new()];
    let mut of_long = BTreeSet::new();
    let mut under_way = 0;
    let mut left = 0..ENVELOPES;
    let mut refused = false;
    loop {
        while under_way < 32 && !refused {
            let Some(number) = left.next() else { break };
            let long = number % ONE_IN == 0;
            let mut content = vec![9; MAX_CONTENT];
            content[..8].copy_from_slice(&number.to_be_bytes());
            let put = envelope_at(&topics[usize::from(long)], clocks.wall(), &content);
            if long {
                of_long.insert(put.id());
            }
            assert!(client.says(&Frame::Put(put.as_bytes().to_vec())));
            under_way += 1;
        }
        if under_way == 0 {
            return confirmed;
        }
        match client.answer().await {
            Frame::Stored { id, .. } => {
                confirmed[usize::from(of_long.contains(&id))].push(id);
            }
            Frame::Refused {
                why: Refusal::Full, ..
            } => refused = true,
            other => panic!("{other:?}"),
        }
        under_way -= 1;
    }
}

async fn pins(client: &mut Client, [short, long]: &[RoutingKey; 2]) {
    for pinned in [
        client.pins(short, short).await,
        client.pins_inbox(long).await,
    ] {
        assert!(matches!(pinned, Frame::Pinned { .. }), "{pinned:?}");
    }
}

/// Ana and Ben say something, and read it of each other.
fn hear_each_other(ana: &Member, ben: &Member, group: &Group, text: &str) {
    for (from, by) in [(ana, ben), (ben, ana)] {
        from.kith.posts(group, text).expect("nothing hinders");
        let author = &from.pseudonym;
        wait_explained(&format!("{text:?} is read"), UNTIL_DELIVERED, || {
            let posts = by.kith.reads(group);
            let read = posts
                .iter()
                .any(|post| post.text == text && post.name == *author);
            read.then_some(()).ok_or(format!("{posts:?}"))
        });
    }
}

/// A community node that was filled, a day ago by its clock.
struct Filled {
    community: Community,
    clocks: Arc<Clocks>,
    /// The topic whose envelopes expire, and the one whose do not.
    topics: [RoutingKey; 2],
    /// What was confirmed on each.
    confirmed: [Vec<EnvelopeId>; 2],
    /// The time at which the envelopes of the first have expired.
    expire: SystemTime,
}

impl Filled {
    async fn begin(more: &str, meanwhile: impl FnOnce(&Community, &Arc<Clocks>)) -> Self {
        // All of it in one hour: from its middle on.
        let hour = Duration::from_secs(3600).as_secs();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let into = now.as_secs() % hour;
        let clocks = Clocks::behind(RETENTION + Duration::from_secs(hour + into) - MIDDLE);
        let clocks = Arc::new(clocks);
        let expire = clocks.wall() - MIDDLE + RETENTION;
        let set = [
            "peer_put_rate=1000000/h",
            "topic_put_rate=1000000/h",
            "peer_byte_rate=10GiB/h",
            RETENTION_SET,
            more,
        ];
        let options: Vec<_> = set.iter().flat_map(|set| ["--set", set]).collect();
        let mut community = Community::start_with(&options);
        community.node.restart_by(clocks.clone());
        tokio::task::block_in_place(|| meanwhile(&community, &clocks));
        let topics = [key(21), key(22)];
        let mut client = Client::connect(community.address()).await;
        pins(&mut client, &topics).await;
        let began = Instant::now();
        let confirmed = fills(&mut client, &clocks, &topics).await;
        let took = began.elapsed();
        let filled = Self {
            community,
            clocks,
            topics,
            confirmed,
            expire,
        };
        let count = filled.confirmed.each_ref().map(Vec::len);
        let mib = filled.on_disk() / MIB;
        println!("{count:?} envelopes in {took:?}: {mib} MiB on disk");
        filled
    }

    /// Puts more, until the node has noticed that it is full.
    async fn overflows(&mut self) {
        let mut client = Client::connect(self.community.address()).await;
        pins(&mut client, &self.topics).await;
        for number in 0_u64.. {
            let topic = &self.topics[0];
            let put = envelope_at(topic, self.clocks.wall(), &number.to_be_bytes());
            match client.puts(&put).await {
                Frame::Stored { id, .. } => self.confirmed[0].push(id),
                Frame::Refused {
                    why: Refusal::Full, ..
                } => return,
                other => panic!("{other:?}"),
            }
        }
    }

    /// How many envelopes were confirmed.
    fn count(&self) -> usize {
        self.confirmed.iter().map(Vec::len).sum()
    }

    fn on_disk(&self) -> u64 {
        on_disk(&self.community.node.home().profile())
    }

    /// Waits until little more is on the disk than what has not expired.
    fn gives_space_back(&self) {
        let began = Instant::now();
        let alive = (self.confirmed[1].len() * MAX_SIZE) as u64;
        let tidy = wait_explained("space is given back", UNTIL_DELIVERED, || {
            let now = self.on_disk();
            let tidy = now < alive + SLACK;
            tidy.then_some(now).ok_or(format!("{} MiB", now / MIB))
        });
        println!("{} MiB on disk after {:?}", tidy / MIB, began.elapsed());
    }

    /// All that has not expired is there, what has is not, and the node takes on.
    async fn lost_nothing(&self) {
        let [expired, staying] = &self.confirmed;
        let mut client = Client::connect(self.community.address()).await;
        pins(&mut client, &self.topics).await;
        let there = client.fetches(&self.topics[1], staying).await;
        assert_eq!(BTreeSet::from_iter(&there), BTreeSet::from_iter(staying));
        assert_eq!(client.fetches(&self.topics[0], &expired[..9]).await, []);
        let new = envelope_at(&self.topics[0], self.clocks.wall(), b"new");
        let stored = client.puts(&new).await;
        assert!(matches!(stored, Frame::Stored { .. }), "{stored:?}");
    }
}

/// A node whose members' nodes keep time with it.
fn member(name: &str, community: &Community, clocks: &Arc<Clocks>) -> Member {
    let mut member = Member::start(name, community);
    member.node.restart_by(clocks.clone());
    member
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_leaves_the_disk_of_a_running_node_and_its_members_are_back() {
    let mut here = None;
    let filled = Filled::begin("topic_max_bytes=1GiB", |community, clocks| {
        let [ana, ben] = ["Ana", "Ben"].map(|name| member(name, community, clocks));
        let group = ana.creates_group("The long run");
        let invite = ana.kith.invites(&group, &[]);
        let joined = ben.joins(&invite.link, JOIN_WAIT);
        assert_eq!(joined, Ok(Joined::In(group.clone())));
        here = Some((ana, ben, group));
    })
    .await;
    let (ana, ben, group) = here.expect("they have met");
    assert_eq!(filled.count(), ENVELOPES);
    tokio::task::block_in_place(|| {
        hear_each_other(&ana, &ben, &group, "Before.");
        filled.clocks.pass(RETENTION);
        filled.gives_space_back();
        let began = Instant::now();
        hear_each_other(&ana, &ben, &group, "After.");
        println!("members hear each other {:?} later", began.elapsed());
    });
    filled.lost_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_full_has_room_again_minutes_after_what_it_holds_has_expired() {
    let mut filled = Filled::begin("store_max_bytes=72MiB", |_, _| {}).await;
    let full = tokio::time::timeout(UNTIL_DELIVERED, filled.overflows()).await;
    assert!(full.is_ok(), "it notices that it is full");
    // It has run for less than the time after which a node tidies up that is not full.
    filled.community.node.stop();
    let left = filled.expire.duration_since(filled.clocks.wall()).unwrap();
    filled.clocks.pass(left - FULL_NODE_WAITS / 2);
    filled.community.node.start();
    filled.clocks.pass(FULL_NODE_WAITS);
    filled.gives_space_back();
    filled.lost_nothing().await;
}

#[test]
fn a_store_that_is_let_go_late_is_waited_for() {
    let mut community = Community::start();
    let home = community.node.home();
    let (log, said) = (home.profile().join("store/tree/db"), home.stderr());
    community.node.stop();
    // As the node itself holds it, on a disk so slow that closing it takes longer than anybody waits.
    let held = File::open(log).unwrap();
    held.lock().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let waits = || {
                let said = fs::read_to_string(&said).unwrap();
                said.contains("trying again").then_some(())
            };
            wait_until("it says that it tries again", UNTIL_READY, waits);
            held.unlock().unwrap();
        });
        community.node.start();
    });
}
