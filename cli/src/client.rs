//! Calls the running node of a profile over its local API.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kith_node::api::{
    Done, Endpoint, ErrorBody, ErrorCode, JOIN_WAIT_MS_MAX, Notice, PassphraseBody, REPLY_WAIT,
};
use kith_node::lock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::Response;
use ureq::typestate::WithBody;
use ureq::{Agent, Body, RequestBuilder};

use crate::args::Cli;
use crate::error::CliError;
use crate::output::Output;
use crate::passphrase;

/// How long connecting to the node may take; it is on this computer.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// How long an answer may take: the node's own limits, and a margin.
const ANSWER_WAIT: Duration =
    Duration::from_secs(REPLY_WAIT.as_secs() + JOIN_WAIT_MS_MAX / 1000 + 10);

/// Largest answer taken, in bytes: a page of longest entries fits.
const ANSWER_MAX: u64 = 64 * 1024 * 1024;

/// Talks to one running node.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: Endpoint,
    profile: PathBuf,
    start_hint: String,
    passphrase_file: Option<PathBuf>,
    json: bool,
}

/// What is sent to a path.
enum Call {
    Get,
    Post(Value),
    Delete(Value),
}

/// The notices of a node, as they come.
pub(crate) struct Events<'a> {
    client: &'a Client,
    lines: std::io::Lines<BufReader<ureq::BodyReader<'static>>>,
}

impl Client {
    /// Finds the running node of the profile.
    pub(crate) fn find(cli: &Cli) -> Result<Self, CliError> {
        let profile = profile_dir(cli)?;
        let start_hint = start_hint(cli);
        let endpoint = match Endpoint::read(&profile) {
            Ok(Some(endpoint)) => endpoint,
            Ok(None) => return Err(no_node(&start_hint)),
            Err(error) => {
                return Err(CliError::undone("io", error.to_string(), start_hint));
            }
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT_WAIT))
            .build()
            .into();
        let client = Self {
            agent,
            endpoint,
            profile,
            start_hint,
            passphrase_file: cli.passphrase_file.clone(),
            json: cli.json,
        };
        client.check_alive()?;
        Ok(client)
    }

    /// The node's process id, as it left it.
    pub(crate) fn pid(&self) -> u32 {
        self.endpoint.pid
    }

    /// Whether the profile still points at this node.
    pub(crate) fn is_current(&self) -> bool {
        matches!(Endpoint::read(&self.profile), Ok(Some(there)) if there == self.endpoint)
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.ask(&Call::Get, path)
    }

    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.ask(&Call::Post(to_json(body)?), path)
    }

    pub(crate) fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.ask(&Call::Delete(to_json(body)?), path)
    }

    /// Listens to what changes from now on.
    pub(crate) fn events(&self) -> Result<Events<'_>, CliError> {
        let response = self.send(&Call::Get, "/v1/events", None)?;
        if !response.status().is_success() {
            return self.read::<Value>(response).and(Err(self.gone()));
        }
        let lines = BufReader::new(response.into_body().into_reader()).lines();
        Ok(Events {
            client: self,
            lines,
        })
    }

    /// Asks; opens the vault and asks again if that is all that is missing.
    fn ask<T: DeserializeOwned>(&self, call: &Call, path: &str) -> Result<T, CliError> {
        let response = self.send(call, path, Some(ANSWER_WAIT))?;
        let locked = u16::from(response.status()) == ErrorCode::VaultLocked.status();
        let (true, Some(file)) = (locked, &self.passphrase_file) else {
            return self.read(response);
        };
        let passphrase = passphrase::from_file(file, &Output::new(self.json))?;
        let unlock = Call::Post(to_json(&PassphraseBody { passphrase })?);
        let opened = self.send(&unlock, "/v1/vault/unlock", Some(ANSWER_WAIT))?;
        self.read::<Done>(opened)?;
        self.read(self.send(call, path, Some(ANSWER_WAIT))?)
    }

    /// Makes sure that the node which left the address still runs: it holds the lock of its profile. After a
    /// crash another user's program may have taken the port, and would be told texts and passphrases.
    fn check_alive(&self) -> Result<(), CliError> {
        match lock::holder(&self.profile) {
            Ok(Some(pid)) if pid == self.endpoint.pid => Ok(()),
            Ok(_) => Err(self.gone()),
            Err(error) => {
                let file = self.profile.join(lock::LOCK_FILE);
                Err(CliError::io(&file.display().to_string(), &error))
            }
        }
    }

    fn send(
        &self,
        call: &Call,
        path: &str,
        wait: Option<Duration>,
    ) -> Result<Response<Body>, CliError> {
        self.check_alive()?;
        let uri = format!("{}{path}", self.endpoint.address);
        let token = format!("Bearer {}", self.endpoint.token.expose());
        let with_body = |request: RequestBuilder<WithBody>, body: &Value| {
            request
                .header("authorization", &token)
                .header("content-type", "application/json")
                .config()
                .timeout_global(wait)
                .build()
                .send(body.to_string())
        };
        let sent = match call {
            Call::Post(body) => with_body(self.agent.post(uri), body),
            Call::Delete(body) => with_body(self.agent.delete(uri).force_send_body(), body),
            Call::Get => self
                .agent
                .get(uri)
                .header("authorization", &token)
                .config()
                .timeout_global(wait)
                .build()
                .call(),
        };
        sent.map_err(|error| self.unreachable(&error))
    }

    fn read<T: DeserializeOwned>(&self, mut response: Response<Body>) -> Result<T, CliError> {
        let status = response.status();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_MAX)
            .read_to_string()
            .map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return serde_json::from_str(&text).map_err(|_| self.foreign());
        }
        match serde_json::from_str::<ErrorBody>(&text) {
            // Another node answers at the address that a node of this profile left behind.
            Ok(body) if body.error.code == ErrorCode::Unauthorized => Err(self.gone()),
            Ok(body) => Err(body.error.into()),
            Err(_) => Err(self.foreign()),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> CliError {
        match error {
            ureq::Error::Timeout(_) => CliError::undone(
                "unreachable",
                "the node does not answer",
                "see whether it is busy, or stop it and start it again",
            ),
            _ => self.gone(),
        }
    }

    /// What answers is not a kith node, or one of another version.
    fn foreign(&self) -> CliError {
        CliError::undone(
            "unreachable",
            format!(
                "{} gave an answer that is not understood",
                self.endpoint.address
            ),
            "stop the node, and start it again with this version of kith",
        )
    }

    /// The node is no longer there.
    pub(crate) fn gone(&self) -> CliError {
        no_node(&self.start_hint)
    }
}

impl Iterator for Events<'_> {
    type Item = Result<Notice, CliError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.lines.next()? {
                Ok(line) => line,
                Err(_) => return Some(Err(self.client.gone())),
            };
            // A notice of a newer version is skipped, like comments and empty lines.
            let data = line.strip_prefix("data: ");
            if let Some(notice) = data.and_then(|data| serde_json::from_str(data).ok()) {
                return Some(Ok(notice));
            }
        }
    }
}

/// The path of something in a group; each part is written so that any name fits.
pub(crate) fn path(parts: &[&str]) -> String {
    parts.iter().fold("/v1".into(), |path, part| {
        let mut path = path + "/";
        for byte in part.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => path.push(byte.into()),
                _ => path.push_str(&format!("%{byte:02X}")),
            }
        }
        path
    })
}

/// The profile directory: the one given, or `kith` in the user's data directory.
pub(crate) fn profile_dir(cli: &Cli) -> Result<PathBuf, CliError> {
    if let Some(profile) = &cli.profile {
        return Ok(profile.clone());
    }
    let absolute = |path: &PathBuf| path.is_absolute();
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    data.filter(absolute)
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
        .filter(absolute)
        .map(|data| data.join("kith"))
        .ok_or_else(|| {
            CliError::usage(
                "the user's data directory cannot be found",
                "pass --profile DIR",
            )
        })
}

/// How to start the node of this profile.
fn start_hint(cli: &Cli) -> String {
    match &cli.profile {
        None => "start it with: kith up".into(),
        Some(profile) => format!("start it with: kith up --profile {}", quoted(profile)),
    }
}

fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

fn no_node(hint: &str) -> CliError {
    CliError::no_node("no node is running for this profile", hint)
}

fn to_json(body: &impl Serialize) -> Result<Value, CliError> {
    serde_json::to_value(body).map_err(|error| CliError::io("cannot write JSON", &error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_fits_into_a_path() {
        assert_eq!(
            path(&["groups", "a/b ñ.."]),
            "/v1/groups/a%2Fb%20%C3%B1%2E%2E"
        );
    }

    #[test]
    fn a_profile_is_quoted_for_the_shell() {
        assert_eq!(quoted(Path::new("/tmp/a-b.c")), "/tmp/a-b.c");
        assert_eq!(quoted(Path::new("/tmp/a b's")), "'/tmp/a b'\\''s'");
    }
}
