//! Speaks to a node's local API as a page or a script would.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::Agent;

use crate::kith::Kith;

/// How long the headers of an answer may take.
const UNTIL_ANSWERED: Duration = Duration::from_secs(30);

/// The largest answer that is read, in bytes.
const LARGEST_BODY: u64 = 64 * 1024 * 1024;

/// A node's local API.
#[derive(Clone, Debug)]
pub struct Api {
    agent: Agent,
    base: String,
    token: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The media type, without parameters.
    pub media_type: String,
    /// The body; empty for a stream of events, which is not read.
    pub body: String,
}

/// A stream of events that stays open.
#[derive(Debug)]
pub struct Events {
    lines: Receiver<String>,
}

impl Api {
    /// Finds the API of the node that runs for a profile.
    pub fn of(kith: &Kith) -> Self {
        let file = kith.api_file();
        Self::at(&file.address, &file.token)
    }

    fn at(address: &str, token: &str) -> Self {
        // A node closes a connection whose request it refused before it read the body, and
        // a kept connection may meet that close in the middle of the next request.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_connections(0)
            .proxy(None)
            .timeout_recv_response(Some(UNTIL_ANSWERED));
        Self {
            agent: config.build().into(),
            base: address.to_owned(),
            token: token.to_owned(),
        }
    }

    /// Gets a path, with the token.
    pub fn gets(&self, path: &str) -> Reply {
        self.gets_with(path, &[("Authorization", &self.bearer())])
    }

    /// Gets a path, with exactly these headers beside those that every request has.
    pub fn gets_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        read(self.send(path, headers))
    }

    /// Gets a path with the token and one more header.
    pub fn gets_also_with(&self, path: &str, header: (&str, &str)) -> Reply {
        self.gets_with(path, &[("Authorization", &self.bearer()), header])
    }

    /// Posts a JSON body to a path, with exactly these headers beside those that every request has.
    pub fn posts_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Reply {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(
            request
                .send_json(body)
                .unwrap_or_else(|e| panic!("POST {path}: {e}")),
        )
    }

    /// Opens the stream of events.
    ///
    /// # Panics
    ///
    /// When the node does not answer with a stream.
    pub fn events(&self) -> Events {
        let response = self.send("/v1/events", &[("Authorization", &self.bearer())]);
        assert_eq!(response.status(), 200);
        assert_eq!(response.body().mime_type(), Some("text/event-stream"));
        let (sender, lines) = mpsc::channel();
        let stream = BufReader::new(response.into_body().into_reader());
        // The thread ends with the stream, which ends with the node or with the test.
        thread::spawn(move || {
            for line in stream.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Events { lines }
    }

    /// The value of the header that carries the token.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn send(&self, path: &str, headers: &[(&str, &str)]) -> ureq::http::Response<ureq::Body> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.call().unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }
}

/// Gets a path of any server on this machine, without a token.
pub fn get(address: &str, path: &str) -> Reply {
    Api::at(address, "").gets_with(path, &[])
}

impl Reply {
    /// The body, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

impl Events {
    /// Waits for a line of data that holds this text.
    ///
    /// # Panics
    ///
    /// When none came within `bound`, or the stream ended.
    pub fn wait_for(&self, text: &str, bound: Duration) -> String {
        let end = Instant::now() + bound;
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.starts_with("data:") && line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(e) => panic!("no event with {text:?}: {e}; seen: {seen:?}"),
            }
        }
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Reply {
    let media_type = response.body().mime_type().unwrap_or_default().to_owned();
    let body = if media_type == "text/event-stream" {
        String::new()
    } else {
        let body = response.body_mut().with_config().limit(LARGEST_BODY);
        body.read_to_string()
            .expect("the body of an answer is text")
    };
    Reply {
        status: response.status().as_u16(),
        media_type,
        body,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with these bytes, and returns its head.
    fn serve_once(answer: &'static str) -> (Api, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let served = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(&stream).lines().map(Result::unwrap);
            let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            (&stream).write_all(answer.as_bytes()).unwrap();
            head.join("\n").to_lowercase()
        });
        (Api::at(&address, "t0ken"), served)
    }

    #[test]
    fn the_token_goes_along_and_an_error_is_an_answer() {
        let answer = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        let (api, served) = serve_once(answer);
        let reply = api.gets("/v1/x");
        assert_eq!(
            (reply.status, &*reply.media_type, &*reply.body),
            (403, "application/json", "{}")
        );
        assert!(
            served
                .join()
                .unwrap()
                .contains("authorization: bearer t0ken")
        );
    }

    #[test]
    fn a_foreign_host_replaces_the_true_one() {
        let (api, served) = serve_once("HTTP/1.1 204 No Content\r\n\r\n");
        api.gets_with("/", &[("Host", "example.org")]);
        let head = served.join().unwrap();
        assert!(
            head.contains("host: example.org") && !head.contains("127.0.0.1"),
            "{head}"
        );
    }

    #[test]
    fn events_arrive_while_the_stream_is_open() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\ndata: {\"id\":\"7\"}\n\n";
        let (api, served) = serve_once(head);
        let line = api.events().wait_for("\"7\"", UNTIL_ANSWERED);
        assert_eq!(line, "data: {\"id\":\"7\"}");
        served.join().unwrap();
    }
}
