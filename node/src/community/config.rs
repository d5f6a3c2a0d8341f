//! A community node's configuration: a file, the environment and the command line, in this order of
//! weakness.
//!
//! Each of the three is a [`Layer`] of texts; the texts become values only once it is known which of
//! them count. So an error always names the key and the place where it was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use kith_protocol::{
    envelope::MAX_SIZE,
    id::TopicId,
    mailbox::{
        Access, Policy, Quotas, Recommended, Room,
        limit::{
            MAX_LINKS, MAX_LIST_LIFE, MAX_NODE_ADDRESS, MAX_NODE_ADDRESSES, MAX_PEERS,
            MAX_RECOMMENDED, MIN_RETENTION,
        },
    },
    time::Span,
};
use serde_json::Value;

use super::{
    keys::{EXAMPLE_HEAD, KEYS, Key},
    text,
};
use crate::network::{DiscoveryConfig, Peer};

/// The largest file that is read as a configuration, in bytes.
const FILE_MAX: u64 = 1024 * 1024;
/// The most values of one list.
const LIST_MAX: usize = 10_000;
/// What the names of variables begin with.
const PREFIX: &str = "KITH_COMMUNITY_";
/// The longest retention.
const RETENTION_MAX: Span = Span::DAY.times(365);
/// The fewest connections: some are kept for those that the node makes itself.
const CONNECTIONS_MIN: u64 = 16;
/// The smallest room or allowance of bytes: one envelope must fit.
const BYTES_MIN: u64 = MAX_SIZE as u64;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nowhere: it is the default.
    Default,
    /// In this file.
    File(PathBuf),
    /// In this variable of the environment.
    Variable(String),
    /// On the command line, as this option.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => write!(f, "the environment ({name})"),
            Self::Flag(flag) => write!(f, "the command line ({flag})"),
        }
    }
}

/// Says what is wrong with a configuration, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {cause}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line.
        cause: String,
    },
    /// There is no such key.
    #[error("there is no key \"{key}\" ({source_}){hint}")]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it was written.
        source_: Source,
        /// What may have been meant.
        hint: String,
    },
    /// A value is not one that the key takes.
    #[error("{key} in {source_}: {cause}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// Where it was written.
        source_: Source,
        /// What is wrong with it and what to write.
        cause: String,
    },
}

/// What one place says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer(BTreeMap<&'static str, (Vec<String>, Option<Source>)>);

impl Layer {
    /// Reads a TOML file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is not TOML, or holds what is no key.
    pub fn file(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let length = fs::metadata(path).map_err(unreadable)?.len();
        if length > FILE_MAX {
            let source = io::Error::other("it is larger than 1 MiB, so it is some other file");
            return Err(unreadable(source));
        }
        let toml = fs::read_to_string(path).map_err(unreadable)?;
        let read: BTreeMap<String, Value> =
            basic_toml::from_str(&toml).map_err(|error| ConfigError::Syntax {
                path: path.to_owned(),
                cause: error.to_string(),
            })?;
        let mut layer = Self::default();
        for (name, value) in read {
            let source = Source::File(path.to_owned());
            let key = find(&name, &source)?;
            let values = texts(key, value).map_err(|cause| invalid(key, &source, cause))?;
            layer.set(key, values, source)?;
        }
        Ok(layer)
    }

    /// Reads the variables that begin with `KITH_COMMUNITY_`. Lists are separated by commas or spaces.
    ///
    /// # Errors
    ///
    /// When one of them names no key: it would otherwise be ignored in silence.
    pub fn environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut layer = Self::default();
        for (name, value) in variables {
            let Some(variable) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            let source = Source::Variable(variable.to_owned());
            let key = find(&variable[PREFIX.len()..].to_lowercase(), &source)?;
            let value = value.into_string().map_err(|_| {
                invalid(key, &source, "it is not UTF-8 text; write it again".into())
            })?;
            layer.set(key, split(key, &value), source)?;
        }
        Ok(layer)
    }

    /// Adds what the command line sets: the option as it was written, the key, and the values.
    ///
    /// # Errors
    ///
    /// When there is no such key.
    pub fn flag(&mut self, flag: &str, name: &str, values: Vec<String>) -> Result<(), ConfigError> {
        let source = Source::Flag(flag.to_owned());
        let key = find(name, &source)?;
        let values = match values.as_slice() {
            [value] => split(key, value),
            _ => values,
        };
        self.set(key, values, source)
    }

    fn set(&mut self, key: &Key, values: Vec<String>, source: Source) -> Result<(), ConfigError> {
        if !key.list && values.len() != 1 {
            return Err(invalid(
                key,
                &source,
                "it takes one value, not several".into(),
            ));
        }
        if values.len() > LIST_MAX {
            let cause = format!("it has too many values; at most {LIST_MAX} are taken");
            return Err(invalid(key, &source, cause));
        }
        self.0.insert(key.name, (values, Some(source)));
        Ok(())
    }
}

/// What a community node is configured to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Multiaddrs to listen on.
    pub listen: Vec<String>,
    /// Multiaddrs at which the node is reached besides those.
    pub external: Vec<String>,
    /// Full multiaddrs of other community nodes.
    pub peers: Vec<String>,
    /// Who runs the node; may be empty.
    pub operator: String,
    /// How to reach them; may be empty.
    pub contact: String,
    /// How long envelopes are kept.
    pub retention: Span,
    /// How long envelopes of inbox topics are kept.
    pub inbox_retention: Span,
    /// What topics, peers and the whole may use.
    pub quotas: Quotas,
    /// How many connections it holds.
    pub max_connections: u32,
    /// How large the store may become, in bytes.
    pub store_max_bytes: u64,
    /// How much of the disk stays free, in bytes.
    pub store_min_free: u64,
    /// Where metrics and health are served.
    pub metrics_listen: Option<SocketAddr>,
    /// Whether it finds other community nodes and is found.
    pub discovery: bool,
    /// Full multiaddrs that discovery begins with, beside the peers.
    pub discovery_seeds: Vec<String>,
    /// Whether discovery takes addresses in private networks.
    pub discovery_private: bool,
    /// Community nodes that the operator stands up for.
    pub recommend: Vec<Recommended>,
    /// Whether the list also names nodes that discovery found.
    pub list_found: bool,
    /// For how long a published list holds.
    pub list_life: Span,
    /// Peers that are not served.
    pub block_peers: Vec<Peer>,
    /// The only peers that are served, unless empty.
    pub allow_peers: Vec<Peer>,
    /// Topics that are not served.
    pub block_topics: BTreeSet<TopicId>,
    /// The only topics that are served, unless empty.
    pub allow_topics: BTreeSet<TopicId>,
    /// As written, with where it was written: to show what is in force.
    written: BTreeMap<&'static str, (Vec<String>, Source)>,
}

impl Config {
    /// Lays layers over the defaults, the later ones stronger.
    ///
    /// # Errors
    ///
    /// Names the first key whose value cannot be used, and where it was written.
    pub fn of(layers: impl IntoIterator<Item = Layer>) -> Result<Self, ConfigError> {
        let mut written: BTreeMap<&'static str, (Vec<String>, Source)> = KEYS
            .iter()
            .map(|key| {
                let values = key.default.iter().map(|value| (*value).to_owned());
                (key.name, (values.collect(), Source::Default))
            })
            .collect();
        for layer in layers {
            for (name, (values, source)) in layer.0 {
                written.insert(name, (values, source.unwrap_or(Source::Default)));
            }
        }
        Reader(&written).config(&written)
    }

    /// The policy of the mailbox.
    pub fn policy(&self) -> Policy {
        Policy::community(self.retention)
            .with_inbox_retention(self.inbox_retention)
            .with_quotas(self.quotas)
    }

    /// Whom and what the mailbox serves.
    pub fn access(&self) -> Access {
        let ids = |peers: &[Peer]| peers.iter().map(|peer| peer.as_bytes().to_vec()).collect();
        Access {
            block_clients: ids(&self.block_peers),
            allow_clients: ids(&self.allow_peers),
            block_topics: self.block_topics.clone(),
            allow_topics: self.allow_topics.clone(),
        }
    }

    /// What discovery is told; none unless the operator switched it on.
    pub fn discovery(&self) -> Option<DiscoveryConfig> {
        self.discovery.then(|| DiscoveryConfig {
            private: self.discovery_private,
            seeds: self.discovery_seeds.clone(),
            block: self.block_peers.clone(),
            allow: self.allow_peers.clone(),
        })
    }

    /// Every key as it is in force: its name, its values as text, and where they were written.
    pub fn shown(&self) -> impl Iterator<Item = (&'static Key, &[String], &Source)> {
        KEYS.iter().filter_map(|key| {
            let (values, source) = self.written.get(key.name)?;
            Some((key, values.as_slice(), source))
        })
    }

    /// Writes what is in force as a file that can be read again, with a comment on each line that
    /// is not the default.
    pub fn to_toml(&self) -> String {
        let line = |(key, values, source): (&Key, &[String], &Source)| {
            let line = toml_line(key, values);
            match source {
                Source::Default => line,
                source => format!("{line}  # {source}"),
            }
        };
        self.shown().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Writes a file that explains every key and changes nothing.
    pub fn example() -> String {
        let mut example = EXAMPLE_HEAD.to_owned();
        for key in KEYS {
            example.push('\n');
            for line in wrapped(key.about, 98) {
                example.push_str(&format!("# {line}\n"));
            }
            let default: Vec<String> = key.default.iter().map(|&text| text.to_owned()).collect();
            example.push_str(&format!("#{}\n", toml_line(key, &default)));
        }
        example
    }
}

/// Turns texts into values.
struct Reader<'a>(&'a BTreeMap<&'static str, (Vec<String>, Source)>);

impl Reader<'_> {
    fn config(
        &self,
        written: &BTreeMap<&'static str, (Vec<String>, Source)>,
    ) -> Result<Config, ConfigError> {
        let config = Config {
            listen: self.all("listen", text::listen)?,
            external: self.all("external", text::external)?,
            peers: self.all("peers", text::peer_address)?,
            operator: self.one("operator", text::line)?,
            contact: self.one("contact", text::line)?,
            retention: self.one("retention", retention)?,
            inbox_retention: self.one("inbox_retention", retention)?,
            quotas: self.quotas()?,
            max_connections: self.one("max_connections", connections)?,
            store_max_bytes: self.one("store_max_bytes", room)?,
            store_min_free: self.one("store_min_free", text::bytes)?,
            metrics_listen: self.one("metrics_listen", |text| match text {
                "" => Ok(None),
                text => text::loopback(text).map(Some),
            })?,
            discovery: self.one("discovery", text::switch)?,
            discovery_seeds: self.all("discovery_seeds", text::peer_address)?,
            discovery_private: self.one("discovery_private", text::switch)?,
            recommend: self.recommended()?,
            list_found: self.one("list_found", text::switch)?,
            list_life: self.one("list_life", list_life)?,
            block_peers: self.all("block_peers", text::peer)?,
            allow_peers: self.all("allow_peers", text::peer)?,
            block_topics: self.all("block_topics", text::topic)?.into_iter().collect(),
            allow_topics: self.all("allow_topics", text::topic)?.into_iter().collect(),
            written: written.clone(),
        };
        self.check(&config)?;
        Ok(config)
    }

    fn quotas(&self) -> Result<Quotas, ConfigError> {
        let rate = |name| self.one(name, text::rate);
        let byte_rate = |text: &str| match text::rate(text)? {
            rate if rate.units < BYTES_MIN => Err(format!(
                "\"{text}\" is too little for one envelope; write at least 64KiB per time"
            )),
            rate => Ok(rate),
        };
        let held = |envelopes, bytes| {
            Ok::<_, ConfigError>(Room {
                envelopes: self.one(envelopes, positive)?,
                bytes: self.one(bytes, room)?,
            })
        };
        Ok(Quotas {
            total: held("max_envelopes", "max_bytes")?,
            topic: held("topic_max_envelopes", "topic_max_bytes")?,
            inbox: held("inbox_max_envelopes", "inbox_max_bytes")?,
            topics: self.one("max_topics", positive)?,
            inboxes: self.one("max_inboxes", text::count)?,
            puts: rate("put_rate")?,
            topic_puts: rate("topic_put_rate")?,
            client_puts: rate("peer_put_rate")?,
            client_bytes: self.one("peer_byte_rate", byte_rate)?,
            client_topics: rate("peer_topic_rate")?,
            client_requests: rate("peer_request_rate")?,
        })
    }

    /// Those that are recommended, several entries of one node as one.
    fn recommended(&self) -> Result<Vec<Recommended>, ConfigError> {
        let wrong = |cause: String| wrong_value("recommend", &self.written("recommend").1, cause);
        let mut all = Vec::<Recommended>::new();
        for (peer, address, why) in self.all("recommend", text::recommended)? {
            if address.len() > MAX_NODE_ADDRESS {
                return Err(wrong(format!(
                    "\"{address}\" is longer than {MAX_NODE_ADDRESS} bytes; write a shorter one"
                )));
            }
            match all.iter_mut().find(|one| one.peer == peer.as_bytes()) {
                None => all.push(Recommended {
                    peer: peer.as_bytes().to_vec().into(),
                    addresses: vec![address],
                    why,
                }),
                Some(one) if one.addresses.len() >= MAX_NODE_ADDRESSES => {
                    return Err(wrong(format!(
                        "it names more than {MAX_NODE_ADDRESSES} addresses of {peer}; take some away"
                    )));
                }
                Some(one) => {
                    one.addresses.push(address);
                    if one.why.is_empty() {
                        one.why = why;
                    }
                }
            }
        }
        match all.len() {
            0..=MAX_RECOMMENDED => Ok(all),
            _ => Err(wrong(format!(
                "it names more than {MAX_RECOMMENDED} nodes; take some away"
            ))),
        }
    }

    /// What no key alone can get wrong.
    fn check(&self, config: &Config) -> Result<(), ConfigError> {
        let wrong = |name: &'static str, cause: &str| {
            let source_ = self.written(name).1.clone();
            let (key, cause) = (name, cause.to_owned());
            Err(ConfigError::Invalid {
                key,
                source_,
                cause,
            })
        };
        if config.listen.is_empty() {
            return wrong(
                "listen",
                "without an address nobody can reach the node; write at least one",
            );
        }
        if config.inbox_retention < config.retention {
            return wrong(
                "inbox_retention",
                "it is shorter than retention; write at least as much",
            );
        }
        if config
            .block_peers
            .iter()
            .any(|peer| config.allow_peers.contains(peer))
        {
            return wrong(
                "block_peers",
                "one of them stands in allow_peers too; take it out of one list",
            );
        }
        if config.discovery_seeds.len() > MAX_PEERS {
            return wrong(
                "discovery_seeds",
                "it names more than 16 nodes; a few are enough, discovery finds the others",
            );
        }
        if config.list_found && !config.discovery {
            return wrong(
                "list_found",
                "without discovery nothing is found; write discovery = \"on\" too",
            );
        }
        if !config.block_topics.is_disjoint(&config.allow_topics) {
            return wrong(
                "block_topics",
                "one of them stands in allow_topics too; take it out of one list",
            );
        }
        Ok(())
    }

    fn one<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (values, source) = self.written(name);
        let text = values.first().map_or("", String::as_str);
        read(text).map_err(|cause| wrong_value(name, source, cause))
    }

    fn all<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        let (values, source) = self.written(name);
        let read = |text: &String| read(text).map_err(|cause| wrong_value(name, source, cause));
        values.iter().map(read).collect()
    }

    fn written(&self, name: &'static str) -> &(Vec<String>, Source) {
        static NOTHING: (Vec<String>, Source) = (Vec::new(), Source::Default);
        self.0.get(name).unwrap_or(&NOTHING)
    }
}

fn wrong_value(key: &'static str, source: &Source, cause: String) -> ConfigError {
    ConfigError::Invalid {
        key,
        source_: source.clone(),
        cause,
    }
}

fn invalid(key: &Key, source: &Source, cause: String) -> ConfigError {
    wrong_value(key.name, source, cause)
}

fn retention(text: &str) -> Result<Span, String> {
    match text::span(text)? {
        span if span < MIN_RETENTION || span > RETENTION_MAX => Err(format!(
            "\"{text}\" is not between {} and {}; write a time such as 30d",
            text::show_span(MIN_RETENTION),
            text::show_span(RETENTION_MAX)
        )),
        span => Ok(span),
    }
}

fn list_life(text: &str) -> Result<Span, String> {
    match text::span(text)? {
        span if span < Span::DAY || span > MAX_LIST_LIFE => Err(format!(
            "\"{text}\" is not between 1d and {}; write a time such as 30d",
            text::show_span(MAX_LIST_LIFE)
        )),
        span => Ok(span),
    }
}

fn positive(text: &str) -> Result<u64, String> {
    match text::count(text)? {
        0 => Err("0 would let nothing through; write at least 1".into()),
        number => Ok(number),
    }
}

fn connections(text: &str) -> Result<u32, String> {
    let number = text::count(text)?;
    let held = u32::try_from(number).ok();
    held.filter(|_| (CONNECTIONS_MIN..=MAX_LINKS as u64).contains(&number))
        .ok_or_else(|| {
            format!(
                "{number} is not between {CONNECTIONS_MIN} and {MAX_LINKS}; write such a number"
            )
        })
}

fn room(text: &str) -> Result<u64, String> {
    match text::bytes(text)? {
        bytes if bytes < BYTES_MIN => Err(format!(
            "\"{text}\" is too little for one envelope; write at least 64KiB"
        )),
        bytes => Ok(bytes),
    }
}

fn find(name: &str, source: &Source) -> Result<&'static Key, ConfigError> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        let nearest = KEYS
            .iter()
            .map(|key| (distance(name, key.name), key.name))
            .min();
        let hint = match nearest {
            Some((distance, nearest)) if distance <= 3 => format!("; did you mean \"{nearest}\"?"),
            _ => "; list all keys with: kith community --print-config".to_owned(),
        };
        ConfigError::UnknownKey {
            key: name.to_owned(),
            source_: source.clone(),
            hint,
        }
    })
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().take(64).enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let changed = before + usize::from(a != *b);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The texts of a TOML value.
fn texts(key: &Key, value: Value) -> Result<Vec<String>, String> {
    let scalar = |value| match value {
        Value::String(text) => Ok(text),
        Value::Number(number) if number.is_u64() => Ok(number.to_string()),
        Value::Bool(true) => Ok("on".to_owned()),
        Value::Bool(false) => Ok("off".to_owned()),
        _ => Err("it takes text in quotes, or a whole number".to_owned()),
    };
    match value {
        Value::Array(values) if key.list => values.into_iter().map(scalar).collect(),
        Value::Array(_) => Err("it takes one value, not a list".into()),
        Value::Object(_) => Err("it is a section; write KEY = VALUE, without sections".into()),
        _ if key.list => Err("it takes a list, such as [\"…\", \"…\"]".into()),
        value => Ok(vec![scalar(value)?]),
    }
}

/// The texts of a variable or an option.
fn split(key: &Key, value: &str) -> Vec<String> {
    if key.list {
        let between: &[char] = match key.spaced {
            true => &[';', '\n'],
            false => &[',', ' ', '\n', '\t'],
        };
        let parts = value.split(between).map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    } else {
        vec![value.to_owned()]
    }
}

fn toml_line(key: &Key, values: &[String]) -> String {
    // TOML's basic strings escape what JSON's do.
    let quoted: Vec<String> = values
        .iter()
        .map(|value| match value.parse::<u64>() {
            Ok(number) if !key.list => number.to_string(),
            _ => Value::from(value.as_str()).to_string(),
        })
        .collect();
    match key.list {
        true => format!("{} = [{}]", key.name, quoted.join(", ")),
        false => format!("{} = {}", key.name, quoted.concat()),
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].len() + word.len() >= width {
            lines.push(word.to_owned());
        } else {
            let line = &mut lines[last];
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests;
