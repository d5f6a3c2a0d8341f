//! The keys of the configuration: their names, what they mean, and what holds without them.

/// What an operator can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name in the file. `KITH_COMMUNITY_` and the name in capitals in the environment.
    pub name: &'static str,
    /// Whether it takes a list.
    pub list: bool,
    /// Whether the values of the list hold spaces: then semicolons stand between them where others have
    /// commas or spaces.
    pub spaced: bool,
    /// What holds without it, as it would be written; a list's values one by one.
    pub default: &'static [&'static str],
    /// What it means, in one or two sentences.
    pub about: &'static str,
}

const fn one(name: &'static str, default: &'static [&'static str], about: &'static str) -> Key {
    Key {
        name,
        list: false,
        spaced: false,
        default,
        about,
    }
}

const fn list(name: &'static str, default: &'static [&'static str], about: &'static str) -> Key {
    Key {
        name,
        list: true,
        spaced: false,
        default,
        about,
    }
}

const fn lines(name: &'static str, about: &'static str) -> Key {
    Key {
        spaced: true,
        ..list(name, &[], about)
    }
}

/// All keys, in the order in which they are explained.
pub const KEYS: &[Key] = &[
    list(
        "listen",
        &["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"],
        "Where members reach the node. Open these ports in the firewall.",
    ),
    list(
        "external",
        &[],
        "Where members reach the node, if it cannot know that by itself: behind a router that hands \
         connections on, or under a name, such as /dns4/kith.example.org/tcp/4001. Members who call each \
         other through the node are told these.",
    ),
    list(
        "peers",
        &[],
        "Full addresses of other community nodes, at most 16, to keep shared topics equal with. They \
         count as trusted: the quotas of a peer do not hold for them, those of a topic and of the node do.",
    ),
    one(
        "operator",
        &[""],
        "Who runs the node. Members see it before they trust the node.",
    ),
    one(
        "contact",
        &[""],
        "How members reach the operator: a mail address, a telephone number or a web page.",
    ),
    one(
        "retention",
        &["30d"],
        "How long envelopes are kept, from 1d to 365d.",
    ),
    one(
        "inbox_retention",
        &["90d"],
        "How long envelopes on inbox topics are kept: requests to join and calls for help, which wait \
         for somebody who may be away for long. Not shorter than retention.",
    ),
    one(
        "max_envelopes",
        &["1000000"],
        "How many envelopes the node holds. Each takes about 200 bytes of memory.",
    ),
    one(
        "max_bytes",
        &["4GiB"],
        "How many bytes of envelopes the node holds.",
    ),
    one(
        "max_topics",
        &["100000"],
        "How many topics the node serves.",
    ),
    one(
        "max_inboxes",
        &["20000"],
        "How many of them may be inbox topics; more are served like any other topic.",
    ),
    one(
        "store_max_bytes",
        &["16GiB"],
        "How large the store on disk may become. Beyond it nothing new is taken until envelopes have expired. \
         It is larger than max_bytes because the store keeps room to work in.",
    ),
    one(
        "store_min_free",
        &["512MiB"],
        "How much of the disk stays free. Below it nothing new is taken until there is room again.",
    ),
    one(
        "topic_max_envelopes",
        &["50000"],
        "How many envelopes one topic may hold.",
    ),
    one(
        "topic_max_bytes",
        &["512MiB"],
        "How many bytes of envelopes one topic may hold.",
    ),
    one(
        "inbox_max_envelopes",
        &["4096"],
        "How many envelopes one inbox topic may hold.",
    ),
    one(
        "inbox_max_bytes",
        &["64MiB"],
        "How many bytes of envelopes one inbox topic may hold.",
    ),
    one(
        "max_connections",
        &["10000"],
        "How many connections the node holds, at most 16384. Each takes about 45 KiB of memory and one open file \
         (LimitNOFILE, ulimit -n).",
    ),
    one(
        "topic_put_rate",
        &["20000/h"],
        "How many envelopes may be put on one topic: so many at once, and as many again in each such time.",
    ),
    one(
        "peer_put_rate",
        &["20000/h"],
        "How many envelopes one peer may put.",
    ),
    one(
        "peer_byte_rate",
        &["256MiB/h"],
        "How many bytes of envelopes one peer may put.",
    ),
    one(
        "peer_topic_rate",
        &["512/h"],
        "How many topics that are new to the node one peer may pin.",
    ),
    one(
        "peer_request_rate",
        &["36000/h"],
        "How many requests of other kinds one peer may make: pins, comparisons and fetches.",
    ),
    one(
        "put_rate",
        &["300000/m"],
        "How many envelopes all peers together may put.",
    ),
    one(
        "metrics_listen",
        &[""],
        "Where numbers and health are served to programs on this computer, such as 127.0.0.1:9464: \
         /metrics, /healthz and /readyz. Empty for nowhere.",
    ),
    one(
        "discovery",
        &["off"],
        "Whether the node finds other community nodes and is found by them: on or off. If on, anybody can list all \
         nodes that have it on, this one with its addresses. Personal nodes are never part of it.",
    ),
    list(
        "discovery_seeds",
        &[],
        "Full addresses of community nodes, at most 16, that discovery begins with, beside the peers. Nothing but \
         who else is there is asked of them.",
    ),
    one(
        "discovery_private",
        &["off"],
        "Whether discovery takes addresses in private networks and of this computer: on or off. For networks of \
         their own only: on the open network others could have the node knock at doors behind your firewall.",
    ),
    lines(
        "recommend",
        "Community nodes that you recommend, at most 32, each as its full address, a space, and why in one line: \
         \"/dns4/lamp.example.org/tcp/4001/p2p/12D3KooW… Run by the recovery centre in Leeds\". The node shows them to \
         whoever asks, signed with its key: you stand up for them. A second entry of one node adds an address.",
    ),
    one(
        "list_found",
        &["off"],
        "Whether the list also names nodes that discovery found, apart from those that you recommend: on or off.",
    ),
    one(
        "list_life",
        &["30d"],
        "For how long a published list holds, from 1d to 90d.",
    ),
    list(
        "block_peers",
        &[],
        "Peer ids that are not served. A personal node has another peer id after each start.",
    ),
    list(
        "block_topics",
        &[],
        "Topics that are not served, in hexadecimal. What is held of them is deleted.",
    ),
    list(
        "allow_peers",
        &[],
        "If not empty, only these peer ids are served: for community nodes that serve other community nodes alone.",
    ),
    list(
        "allow_topics",
        &[],
        "If not empty, only these topics are served.",
    ),
];

/// What stands above the keys in a written configuration.
pub(super) const EXAMPLE_HEAD: &str = "\
# Configuration of a kith community node. Every line can be left out; what is shown is what holds then.
# The same keys are read from the environment (retention: KITH_COMMUNITY_RETENTION) and from the command
# line (--set retention=30d). The command line is stronger than the environment, and both than this file.
# Check it with: kith community --config FILE --check-config
";
