//! How much is measured: what the targets say, unless the command line says otherwise.

use std::collections::BTreeMap;

/// Sizes by name.
#[derive(Debug, Default)]
pub struct Sizes(BTreeMap<String, u64>);

impl Sizes {
    /// Adds what a word such as `idle_clients=500` says; tells whether it is such a word.
    pub fn add(&mut self, word: &str) -> bool {
        let pair = word.split_once('=');
        let pair = pair.and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        self.0.extend(pair.clone());
        pair.is_some()
    }

    /// The size of something.
    pub fn of(&self, name: &str, usual: u64) -> u64 {
        self.0.get(name).copied().unwrap_or(usual)
    }
}
