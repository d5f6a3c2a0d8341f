//! Searches a disk for what must not be readable on it.
//!
//! Every secret is looked for as it stands and in the forms that programs write bytes in: hexadecimal,
//! base64 (at each of its three alignments), base32, and the decimal list of a `Debug` dump. Long texts are cut into
//! short pieces, so that a part of a sentence is found too. One pass over each file finds any of them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD, Encoding, HEXLOWER, HEXUPPER};

/// The shortest secret that is looked for, in bytes; shorter ones turn up in random bytes by chance.
pub const SHORTEST: usize = 12;

/// The length of the pieces that a longer text is cut into, in bytes.
const PIECE: usize = 16;

/// What must not be found.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    forms: BTreeMap<Vec<u8>, String>,
}

/// A secret that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    /// The file that holds it, or whose path spells it.
    pub file: PathBuf,
    /// Which secret it is, and in which form.
    pub secret: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}: {}", self.file.display(), self.secret)
    }
}

impl Secrets {
    /// Adds each line of a text that is long enough; shorter lines are left out.
    pub fn text(&mut self, text: &str) {
        for line in text.lines().map(str::as_bytes) {
            let pieces = line.chunks(PIECE).filter(|piece| piece.len() >= SHORTEST);
            for piece in pieces {
                self.bytes(&format!("{:?}", String::from_utf8_lossy(piece)), piece);
            }
        }
    }

    /// Adds a short text, such as a name, that must be long enough to be looked for.
    ///
    /// # Panics
    ///
    /// When it is too short to be told from chance.
    pub fn name(&mut self, name: &str) {
        assert!(
            name.len() >= SHORTEST,
            "{name:?} is too short to be searched for"
        );
        self.text(name);
    }

    /// Adds an id or a key: the bytes that it spells in hexadecimal, or else the id as it is written.
    ///
    /// # Panics
    ///
    /// When it is too short to be told from chance.
    pub fn id(&mut self, what: &str, id: &str) {
        let bytes = HEXLOWER
            .decode(id.as_bytes())
            .unwrap_or_else(|_| id.as_bytes().to_vec());
        assert!(
            bytes.len() >= SHORTEST,
            "{id:?} is too short to be searched for"
        );
        self.bytes(what, &bytes);
    }

    /// Counts the byte strings that are looked for.
    pub fn len(&self) -> usize {
        self.forms.len()
    }

    /// Tells whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// Searches files and directories, in contents and in names, and tells what was found in order.
    ///
    /// # Panics
    ///
    /// When a path cannot be read, or there is no file at all: then nothing was searched.
    pub fn search(&self, places: &[&Path]) -> Vec<Leak> {
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(self.forms.keys())
            .expect("the secrets fit an automaton");
        let secrets: Vec<_> = self.forms.values().collect();
        let files: Vec<_> = places.iter().flat_map(|place| files_below(place)).collect();
        assert!(!files.is_empty(), "no file to search in {places:?}");
        let mut leaks: Vec<_> = files
            .iter()
            .flat_map(|file| {
                let mut hay = file.to_string_lossy().into_owned().into_bytes();
                hay.push(b'\n');
                hay.extend(fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
                let found = automaton.find_iter(&hay).map(|hit| Leak {
                    file: file.clone(),
                    secret: secrets[hit.pattern().as_usize()].clone(),
                });
                found.collect::<Vec<_>>()
            })
            .collect();
        leaks.sort();
        leaks.dedup();
        leaks
    }

    /// Searches, and ends the test if anything is found.
    ///
    /// # Panics
    ///
    /// When a secret is found, or nothing could be searched.
    pub fn assert_absent(&self, places: &[&Path]) {
        let leaks = self.search(places);
        let shown: Vec<_> = leaks
            .iter()
            .take(10)
            .map(|leak| format!("\n  {leak}"))
            .collect();
        assert!(leaks.is_empty(), "{} leaks:{}", leaks.len(), shown.concat());
    }

    fn bytes(&mut self, what: &str, bytes: &[u8]) {
        let decimal: Vec<_> = bytes.iter().map(u8::to_string).collect();
        let mut base32 = BASE32_NOPAD.encode(bytes);
        base32.truncate(bytes.len() * 8 / 5); // a last letter that is not full hangs on what follows
        let mut forms = vec![
            ("as it stands", bytes.to_vec()),
            ("in hexadecimal", HEXLOWER.encode(bytes).into_bytes()),
            ("in hexadecimal", HEXUPPER.encode(bytes).into_bytes()),
            ("in base32", base32.to_lowercase().into_bytes()),
            ("in base32", base32.into_bytes()),
            ("as a list of numbers", decimal.join(", ").into_bytes()),
            ("as a list of numbers", decimal.join(",").into_bytes()),
        ];
        for before in 0..3 {
            forms.push(("in base64", base64_inside(&BASE64_NOPAD, bytes, before)));
            forms.push(("in base64", base64_inside(&BASE64URL_NOPAD, bytes, before)));
        }
        for (form, bytes) in forms {
            self.forms.insert(bytes, format!("{what} {form}"));
        }
    }
}

/// The base64 letters that spell `bytes` alone when they lie at offset `before` (mod 3) of something longer.
fn base64_inside(encoding: &Encoding, bytes: &[u8], before: usize) -> Vec<u8> {
    let padded = [&[0; 2][..before], bytes].concat();
    let letters = encoding.encode(&padded).into_bytes();
    let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
    letters[first..last].to_vec()
}

/// Every file at or below a path, in order.
///
/// # Panics
///
/// When a directory cannot be read.
pub fn files_below(place: &Path) -> Vec<PathBuf> {
    if !place.is_dir() {
        return vec![place.to_owned()];
    }
    let entries = fs::read_dir(place).unwrap_or_else(|e| panic!("{}: {e}", place.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().flat_map(|path| files_below(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENTENCE: &str = "The lamp post is still there. ¿Y tú?";

    fn found_in(contents: &[u8]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("deep")).unwrap();
        fs::write(dir.path().join("deep/file"), contents).unwrap();
        let mut secrets = Secrets::default();
        secrets.text(SENTENCE);
        secrets.id("Eli's id", &"0badcafe".repeat(8));
        let leaks = secrets.search(&[dir.path()]);
        leaks.into_iter().map(|leak| leak.secret).collect()
    }

    #[test]
    fn random_looking_bytes_hold_nothing() {
        let noise: Vec<u8> = (0..100_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        assert_eq!(found_in(&noise), Vec::<String>::new());
    }

    #[test]
    fn a_sentence_is_found_in_every_form_and_at_every_offset() {
        for before in ["", "a", "ab", "abc"] {
            let plain = format!("{before}{SENTENCE} and more");
            let forms = [
                plain.clone(),
                HEXLOWER.encode(plain.as_bytes()),
                HEXUPPER.encode(plain.as_bytes()),
                BASE64_NOPAD.encode(plain.as_bytes()),
                BASE64URL_NOPAD.encode(plain.as_bytes()),
                format!("{:?}", plain.as_bytes()),
            ];
            for form in forms {
                assert!(!found_in(form.as_bytes()).is_empty(), "{form}");
            }
        }
    }

    #[test]
    fn a_part_of_a_sentence_is_found() {
        assert_eq!(
            found_in(b"xxThe lamp post isxx"),
            [r#""The lamp post is" as it stands"#]
        );
    }

    #[test]
    fn an_id_is_found_raw_and_in_a_file_name() {
        assert_eq!(
            found_in(&[0x0b, 0xad, 0xca, 0xfe].repeat(8)),
            ["Eli's id as it stands"]
        );
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("0BADCAFE".repeat(8));
        fs::write(&file, "").unwrap();
        let mut secrets = Secrets::default();
        secrets.id("Eli's id", &"0badcafe".repeat(8));
        let secret = "Eli's id in hexadecimal".to_owned();
        assert_eq!(secrets.search(&[dir.path()]), [Leak { file, secret }]);
    }

    #[test]
    #[should_panic(expected = "no file to search")]
    fn searching_nothing_is_not_finding_nothing() {
        let dir = tempfile::tempdir().unwrap();
        Secrets::default().search(&[dir.path()]);
    }
}
