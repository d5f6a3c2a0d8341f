//! The grammar of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A private network of small groups.
#[derive(Debug, Parser)]
#[command(name = "kith", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Directory of this node's files [default: kith in the user's data directory]
    #[arg(long, global = true, env = "KITH_PROFILE", value_name = "DIR")]
    pub(crate) profile: Option<PathBuf>,

    /// File that holds the passphrase, on one line
    #[arg(long, global = true, env = "KITH_PASSPHRASE_FILE", value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,

    /// Print JSON: one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create the vault and show its 24 words, this once
    Init(InitArgs),
    /// Run your own node in the foreground and open its page
    Up(UpArgs),
    /// Run a community node in the foreground: it carries sealed messages for groups. Or find, try
    /// and choose the community nodes that your own node uses
    #[command(args_conflicts_with_subcommands = true)]
    Community(CommunityArgs),
    /// Show what the running node does
    Status,
    /// Stop the running node
    Stop,
    /// Start, list, show, mend or leave groups
    #[command(subcommand)]
    Group(GroupCommand),
    /// Make, list or take back invites
    #[command(subcommand)]
    Invite(InviteCommand),
    /// Join a group with an invite link
    Join(JoinArgs),
    /// Say something to a group
    Post(PostArgs),
    /// Read what a group says
    Read(ReadArgs),
    /// List or remove members, choose stewards
    #[command(subcommand)]
    Member(MemberCommand),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Write the 24 words to this new file instead of showing them
    #[arg(long, value_name = "FILE")]
    pub(crate) words_to: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Address to listen on; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<String>,

    /// How far to go to reach other members who do the same
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Reach::Mailbox)]
    pub(crate) reach: Reach,

    /// Look for members in the local network too, with --reach direct or --listen: everybody in that
    /// network can see that this node is there
    #[arg(long)]
    pub(crate) lan: bool,

    /// Community node to use; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) community: Vec<String>,

    /// Port of the page on this computer; 0 for any
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) api_port: u16,

    /// Do not open the page in a browser
    #[arg(long)]
    pub(crate) no_open: bool,
}

/// How far a personal node goes to reach other members.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Reach {
    /// Only leave and take messages at community nodes
    Mailbox,
    /// Also be connected through community nodes: members see when you are there, not your IP address
    Circuit,
    /// Also connect directly where that works: members see your IP address
    Direct,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct CommunityArgs {
    #[command(subcommand)]
    pub(crate) command: Option<CommunityCommand>,

    /// TOML file with the node's configuration; the environment and options are stronger
    #[arg(long, env = "KITH_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Address to listen on; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<String>,

    /// Another community node to keep shared topics equal with; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) peer: Vec<String>,

    /// How long messages are kept [default: 30d]
    #[arg(long, value_name = "TIME")]
    pub(crate) retention: Option<String>,

    /// Serve metrics and health at this address of this computer, such as 127.0.0.1:9464
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<String>,

    /// Set any key of the configuration; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,

    /// Check the configuration, print what would be in force, and end
    #[arg(long)]
    pub(crate) check_config: bool,

    /// Print a configuration that explains every key and changes nothing, and end
    #[arg(long, conflicts_with = "check_config")]
    pub(crate) print_config: bool,
}

/// What to do about community nodes, other than to run one.
#[derive(Debug, Subcommand)]
pub(crate) enum CommunityCommand {
    /// Show what the running community node can see of those who use it, and what it cannot
    Report,
    /// List the community nodes that your node uses for new groups
    List,
    /// Use another community node for new groups
    Add {
        /// Its address, as its operator gives it
        #[arg(value_name = "MULTIADDR")]
        address: String,
    },
    /// No longer use a community node for new groups
    Remove {
        /// Its address, or the peer id at the end of it
        #[arg(value_name = "MULTIADDR")]
        address: String,
    },
    /// Find community nodes in signed lists that operators publish. Connects to none that is listed, and
    /// adds none
    Find {
        /// Address of a community node to ask, a file that holds a list, or - for standard input [default:
        /// the community nodes that your node uses]
        from: Option<String>,
    },
    /// Write the signed list that the running community node publishes, to put on a page or send by hand
    Publish {
        /// File to write it to [default: standard output]
        #[arg(value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Look at a community node before you trust it: who answers, what it promises, how fast
    Try {
        /// Its address, as its operator gives it
        #[arg(value_name = "MULTIADDR")]
        address: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommunityCommand {
    /// List the community nodes that store a group's messages
    List {
        /// Name of the group, or the beginning of its id
        group: String,
    },
    /// Add one; the group will see that you did
    Add {
        /// Name of the group, or the beginning of its id
        group: String,
        /// Its address, as its operator gives it
        #[arg(value_name = "MULTIADDR")]
        address: String,
    },
    /// Take one off the list; members go on with the others
    Remove {
        /// Name of the group, or the beginning of its id
        group: String,
        /// Its address, or the peer id at the end of it
        #[arg(value_name = "MULTIADDR")]
        address: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Start a group
    New {
        /// What the group is called
        name: String,
        /// What its members will call you
        #[arg(long = "as", value_name = "PSEUDONYM")]
        pseudonym: String,
        /// Community node of the group; may be given several times [default: the node's own]
        #[arg(long, value_name = "MULTIADDR")]
        community: Vec<String>,
    },
    /// List your groups
    List,
    /// Show one group
    Show {
        /// Name of the group, or the beginning of its id
        group: String,
    },
    /// List, add or take away the community nodes that store a group's messages
    #[command(subcommand)]
    Community(GroupCommunityCommand),
    /// Show the log of a group's changes: who did what to whom, when and why
    Log {
        /// Name of the group, or the beginning of its id
        group: String,
    },
    /// Find out what keeps a group from working, and try to mend it
    Repair {
        /// Name of the group, or the beginning of its id
        group: String,
    },
    /// Leave a group for good
    Leave {
        /// Name of the group, or the beginning of its id
        group: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum InviteCommand {
    /// Make an invite
    New {
        /// Name of the group, or the beginning of its id
        group: String,
        /// How long the invite works, at most 30d
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = span)]
        expires: Duration,
        /// How many people may join with it
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
    },
    /// List a group's invites
    List {
        /// Name of the group, or the beginning of its id
        group: String,
    },
    /// Take an invite back
    Revoke {
        /// Name of the group, or the beginning of its id
        group: String,
        /// Beginning of the invite's id
        invite: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The invite link, or - to read it from standard input
    pub(crate) link: String,

    /// What the group's members will call you
    #[arg(long = "as", value_name = "PSEUDONYM")]
    pub(crate) pseudonym: String,

    /// How long to wait for a steward; the request goes on by itself afterwards
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = span)]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct PostArgs {
    /// Name of the group, or the beginning of its id
    pub(crate) group: String,

    /// What to say, or - to read it from standard input
    #[arg(allow_hyphen_values = true)]
    pub(crate) text: String,
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// Name of the group, or the beginning of its id
    pub(crate) group: String,

    /// Show only the latest N entries
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,

    /// Go on with new entries as they come
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List a group's members
    List {
        /// Name of the group, or the beginning of its id
        group: String,
    },
    /// Remove a member
    Remove {
        /// Name of the group, or the beginning of its id
        group: String,
        /// Name of the member, or the beginning of its id
        member: String,
        /// Why; the person and the group will read it
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Make a member a steward, who can let people in, remove them and choose stewards
    Promote {
        /// Name of the group, or the beginning of its id
        group: String,
        /// Name of the member, or the beginning of its id
        member: String,
    },
    /// Make a steward an ordinary member again
    Demote {
        /// Name of the group, or the beginning of its id
        group: String,
        /// Name of the steward, or the beginning of its id
        member: String,
    },
}

/// Reads a span of time: digits and one of ms, s, m, h, d.
fn span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("write a number and a unit: 30s, 10m, 12h or 7d".into()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit_ms))
        .map(Duration::from_millis)
        .ok_or_else(|| "write a whole number before the unit, such as 7d".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_form_of_the_contract_is_taken() {
        for line in [
            "init",
            "init --words-to w",
            "--profile p --passphrase-file f --json init",
            "up",
            "up --listen /ip4/127.0.0.1/tcp/0 --listen /ip4/127.0.0.1/udp/0/quic-v1 \
             --community /ip4/127.0.0.1/tcp/1/p2p/x --api-port 0 --no-open",
            "up --reach mailbox",
            "up --reach circuit",
            "up --reach direct --lan --no-open",
            "community",
            "community --listen /ip4/127.0.0.1/tcp/0 --retention 30d --peer a --peer b",
            "community list",
            "community add a",
            "community remove a --json",
            "community try a",
            "group community list Tuesday",
            "group community add Tuesday a",
            "group community remove Tuesday a",
            "status",
            "stop",
            "group new Tuesday --as Ana --community a --community b",
            "community find",
            "community find nodes.txt",
            "community publish",
            "community publish nodes.txt --json",
            "group list",
            "group show Tuesday",
            "group log Tuesday",
            "group repair Tuesday --json",
            "group leave Tuesday",
            "invite new Tuesday",
            "invite new Tuesday --expires 7d --uses 1",
            "invite list Tuesday",
            "invite revoke Tuesday 00ff",
            "join kith:x --as Ben",
            "join - --as Ben --wait 60s",
            "post Tuesday hello",
            "post Tuesday -",
            "read Tuesday",
            "read Tuesday --limit 5 --follow --json",
            "member list Tuesday",
            "member remove Tuesday Eli --reason ads",
            "member promote Tuesday Ben",
            "member demote Tuesday Ben",
        ] {
            let words = std::iter::once("kith").chain(line.split_whitespace());
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn what_is_missing_is_refused() {
        for line in [
            "",
            "group new Tuesday",
            "join kith:x",
            "post Tuesday",
            "member remove Tuesday Eli",
            "member promote Tuesday",
            "group repair",
            "group community",
            "group community add Tuesday",
            "community add",
            "community --listen x list",
            "invite new Tuesday --expires week",
            "up --api-port 70000",
            "up --reach far",
        ] {
            let words = std::iter::once("kith").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn spans_have_a_unit() {
        assert_eq!(span("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(span("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(span("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(span("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for text in ["", "7", "d", "-1d", "1.5h", "7days", "99999999999999999d"] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
