//! The local API and the page over real connections, with a fake node behind them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something unexpected happens"
)]

mod fake;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use fake::{PASSPHRASE, Running};
use kith_node::api::{ApiError, BODY_MAX, Notice, Role, TEXT_MAX, VaultState};
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(20);

/// A response, read to its end.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        found.next().map_or("", |(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// Sends exactly these lines and body, and reads the answer to its end.
fn raw(origin: &str, lines: &[String], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(origin.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut head = lines.join("\r\n");
    if !body.is_empty() {
        head.push_str(&format!("\r\ncontent-length: {}", body.len()));
    }
    head.push_str("\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    Answer {
        status: status.parse().unwrap(),
        headers: lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    }
}

fn host(origin: &str) -> String {
    format!("host: {}", origin.strip_prefix("http://").unwrap())
}

impl Running {
    /// Asks as a program with the token.
    fn program(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut lines = vec![
            format!("{method} {path} HTTP/1.1"),
            host(&self.origin),
            format!("authorization: Bearer {}", self.token),
        ];
        let body = body.map_or(String::new(), |body| body.to_string());
        if !body.is_empty() {
            lines.push("content-type: application/json".into());
        }
        raw(&self.origin, &lines, body.as_bytes())
    }

    fn browser(&self) -> Browser<'_> {
        let path = self.open_link.strip_prefix(&self.origin).unwrap();
        let lines = [format!("GET {path} HTTP/1.1"), host(&self.origin)];
        let answer = raw(&self.origin, &lines, b"");
        assert_eq!(answer.status, 200);
        let cookie = answer.header("set-cookie").split(';').next().unwrap();
        Browser {
            node: self,
            cookie: cookie.to_owned(),
        }
    }
}

/// A browser that was let in.
struct Browser<'a> {
    node: &'a Running,
    cookie: String,
}

impl Browser<'_> {
    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    fn post(&self, path: &str, form: &str) -> Answer {
        let origin = format!("origin: {}", self.node.origin);
        self.send("POST", path, &[origin], form)
    }

    /// Fills in a form of the page as it is now.
    fn submit(&self, path: &str, form: &str) -> Answer {
        let page = self.get("/").body;
        let csrf = between(&page, r#"name="csrf" value=""#, "\"");
        self.post(path, &format!("csrf={csrf}&{form}"))
    }

    fn send(&self, method: &str, path: &str, more: &[String], form: &str) -> Answer {
        let path = path.split('#').next().unwrap();
        let mut lines = vec![
            format!("{method} {path} HTTP/1.1"),
            host(&self.node.origin),
            format!("cookie: other=1; {}", self.cookie),
        ];
        lines.extend_from_slice(more);
        if !form.is_empty() {
            lines.push("content-type: application/x-www-form-urlencoded".into());
        }
        raw(&self.node.origin, &lines, form.as_bytes())
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap();
    rest.split_once(end).unwrap().0
}

/// Every path and method of the OpenAPI document, with `x` for each parameter.
fn described(node: &Running) -> Vec<(String, BTreeSet<String>)> {
    let document = node.program("GET", "/v1/openapi.json", None).json();
    document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            let path: Vec<&str> = path
                .split('/')
                .map(|part| if part.starts_with('{') { "x" } else { part })
                .collect();
            (
                path.join("/"),
                methods.map(|method| method.to_ascii_uppercase()).collect(),
            )
        })
        .collect()
}

fn assert_headers(answer: &Answer) {
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{answer:?}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("referrer-policy"), "same-origin");
    assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
}

#[test]
fn nothing_is_answered_without_token_or_session() {
    let node = Running::with_group();
    let described = described(&node);
    assert!(described.len() > 10);
    for (path, methods) in described {
        for method in methods {
            for credentials in [
                "x: y".to_owned(),
                "authorization: Bearer ".into(),
                format!("authorization: Bearer {}0", node.token),
                format!("authorization: Basic {}", node.token),
                format!("cookie: kith={}", node.token),
            ] {
                let line = format!("{method} {path} HTTP/1.1");
                let answer = raw(&node.origin, &[line, host(&node.origin), credentials], b"");
                assert_eq!(answer.status, 401, "{method} {path}");
                assert_eq!(answer.code(), "unauthorized");
                assert_headers(&answer);
            }
        }
    }
    for path in ["/", "/groups/Tuesday", "/joins/x", "/groups/x/invites"] {
        let line = format!("GET {path} HTTP/1.1");
        let answer = raw(&node.origin, &[line, host(&node.origin)], b"");
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.body.contains("kith up"), "{path}");
        assert!(!answer.body.contains("Tuesday"), "{path}");
    }
}

#[test]
fn another_host_is_refused_even_with_the_token() {
    let node = Running::with_group();
    let token = format!("authorization: Bearer {}", node.token);
    let port = node.origin.rsplit(':').next().unwrap();
    for (name, status) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("127.0.0.1".into(), 403),
        (format!("kith.example:{port}"), 403),
        (format!("127.0.0.1.example:{port}"), 403),
    ] {
        for path in ["/v1/status", "/assets/style.css"] {
            let lines = [
                format!("GET {path} HTTP/1.1"),
                format!("host: {name}"),
                token.clone(),
            ];
            let answer = raw(&node.origin, &lines, b"");
            assert_eq!(answer.status, status, "{name} {path}");
            assert_headers(&answer);
        }
    }
}

#[test]
fn another_origin_is_refused_even_with_token_or_session() {
    let node = Running::with_group();
    let browser = node.browser();
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        let lines = [
            "POST /v1/vault/lock HTTP/1.1".to_owned(),
            host(&node.origin),
            format!("authorization: Bearer {}", node.token),
            format!("origin: {origin}"),
        ];
        let answer = raw(&node.origin, &lines, b"");
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"));
        let answer = browser.send("POST", "/lock", &[format!("origin: {origin}")], "csrf=x");
        assert_eq!(answer.status, 403);
    }
    let status = node.program("GET", "/v1/status", None).json();
    assert_eq!(status["vault"], "open");
}

#[test]
fn the_document_describes_every_route_and_method() {
    let node = Running::with_group();
    for (path, methods) in described(&node) {
        let answer = node.program("PROPFIND", &path, None);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "method_not_allowed")
        );
        assert_headers(&answer);
        let allowed: BTreeSet<String> = answer
            .header("allow")
            .split(',')
            .filter(|method| *method != "HEAD")
            .map(str::to_owned)
            .collect();
        assert_eq!(allowed, methods, "{path}");
    }
    let document = node.program("GET", "/v1/openapi.json", None).json();
    assert_eq!(
        document["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
    assert_references_resolve(&document, &document);
}

/// Every `$ref` of the document leads somewhere, and every property says what it is.
fn assert_references_resolve(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            for (key, inner) in map {
                if key == "properties" {
                    for (name, property) in inner.as_object().unwrap() {
                        let known = property.get("description").is_some()
                            || property.get("$ref").is_some()
                            || property.get("enum").is_some()
                            || property["oneOf"][0].get("description").is_some();
                        assert!(known, "{name} has no description: {property}");
                    }
                }
                assert_references_resolve(document, inner);
            }
        }
        Value::Array(list) => list
            .iter()
            .for_each(|inner| assert_references_resolve(document, inner)),
        _ => {}
    }
}

#[test]
fn unknown_addresses_and_malformed_requests_get_clear_errors() {
    let node = Running::with_group();
    let answer = node.program("GET", "/v1/nothing", None);
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
    assert_headers(&answer);
    let answer = node.program("GET", "/nothing", None);
    assert_eq!(answer.status, 404);
    assert!(answer.header("content-type").starts_with("text/html"));
    for (path, body) in [
        ("/v1/groups", json!({ "name": "x" })),
        (
            "/v1/groups",
            json!({ "name": "x", "pseudonym": "y", "colour": "z" }),
        ),
        ("/v1/groups/Tuesday/entries", json!([])),
        (
            "/v1/groups/Tuesday/invites",
            json!({ "expires_ms": -1, "uses": 1 }),
        ),
    ] {
        let answer = node.program("POST", path, Some(body));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "bad_request")
        );
        assert!(!answer.body.contains("ailed"), "{}", answer.body);
    }
    for (query, code) in [
        ("limit=0", "bad_request"),
        ("limit=501", "bad_request"),
        ("limit=x", "bad_request"),
        ("before=00", "unknown_entry"),
    ] {
        let path = format!("/v1/groups/Tuesday/entries?{query}");
        assert_eq!(node.program("GET", &path, None).code(), code, "{query}");
    }
    let answer = node.program("GET", "/v1/groups/Nowhere", None);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "unknown_group")
    );
}

#[test]
fn texts_and_bodies_have_limits_that_the_error_names() {
    let node = Running::with_group();
    let path = "/v1/groups/Tuesday/entries";
    let post = |text: String| node.program("POST", path, Some(json!({ "text": text })));
    assert_eq!(post("x".repeat(TEXT_MAX)).status, 200);
    assert_eq!(post("\u{1}".repeat(TEXT_MAX)).status, 200);
    let answer = post("x".repeat(TEXT_MAX + 1));
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "text_too_long")
    );
    assert!(answer.body.contains("32769 bytes") && answer.body.contains("32768 bytes"));
    for empty in ["", " \n"] {
        let answer = post(empty.into());
        assert_eq!((answer.status, answer.code().as_str()), (422, "text_empty"));
    }
    for size in [BODY_MAX, 3 * BODY_MAX, 4_000_000] {
        let answer = post("x".repeat(size));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (413, "body_too_large")
        );
        let whole = size + json!({ "text": "" }).to_string().len();
        assert!(answer.body.contains(&whole.to_string()), "{}", answer.body);
        assert_headers(&answer);
    }
}

#[test]
fn group_names_may_hold_any_printable_character() {
    let node = Running::with_group();
    let name = "Día & noche / 50 % ?#";
    let body = json!({ "name": name, "pseudonym": "Ana" });
    let answer = node.program("POST", "/v1/groups", Some(body));
    assert_eq!(answer.status, 200);
    let path = "/v1/groups/D%C3%ADa%20%26%20noche%20%2F%2050%20%25%20%3F%23";
    assert_eq!(node.program("GET", path, None).json()["name"], name);
    assert_eq!(
        node.program("GET", "/v1/groups/%ff", None).code(),
        "bad_request"
    );
}

#[test]
fn events_arrive_and_the_stream_ends_when_the_node_stops() {
    let mut node = Running::with_group();
    let mut stream = TcpStream::connect(node.origin.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let head = [
        "GET /v1/events HTTP/1.1".to_owned(),
        host(&node.origin),
        format!("authorization: Bearer {}\r\n\r\n", node.token),
    ];
    stream.write_all(head.join("\r\n").as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut head = Vec::new();
    for line in lines.by_ref() {
        match line.unwrap() {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    assert!(head[0].contains("200"), "{head:?}");
    assert!(
        head.iter()
            .any(|line| line == "content-type: text/event-stream")
    );
    assert!(head.iter().any(|line| line == "cache-control: no-store"));

    let mut notices = lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("data: ").map(str::to_owned))
        .map(|data| serde_json::from_str::<Notice>(&data).unwrap());
    let body = json!({ "text": "Good evening\n\nall" });
    node.program("POST", "/v1/groups/Tuesday/entries", Some(body));
    let Some(Notice::NewEntry { entry, .. }) = notices.next() else {
        panic!("the new entry was not told")
    };
    assert_eq!(entry.text, "Good evening\n\nall");
    let vault = VaultState::Locked;
    node.notify(Notice::VaultChanged { vault });
    assert_eq!(notices.next(), Some(Notice::VaultChanged { vault }));
    node.stop();
    assert_eq!(notices.next(), Some(Notice::Stopping));
    assert_eq!(notices.next(), None);
}

#[test]
fn a_request_to_join_can_be_waited_for() {
    let node = Running::with_group();
    let body = json!({ "link": "kith:later", "pseudonym": "Chloe" });
    let join = node.program("POST", "/v1/joins", Some(body)).json();
    assert_eq!(join["state"], "waiting");
    let path = format!("/v1/joins/{}", join["join"].as_str().unwrap());
    assert_eq!(node.program("GET", &path, None).json()["state"], "waiting");
    let answer = node.program("GET", &format!("{path}?wait_ms=10"), None);
    assert_eq!(answer.json()["state"], "waiting");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| node.program("GET", &format!("{path}?wait_ms=20000"), None));
        node.admit();
        let join = waiting.join().unwrap().json();
        assert_eq!(
            (&join["state"], &join["group"]["name"]),
            (&json!("joined"), &json!("Thursday"))
        );
    });
}

#[test]
fn the_endpoint_file_is_private_and_goes_away_at_stop() {
    let mut node = Running::with_group();
    let path = node.profile.path().join("api.json");
    let text: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(text["address"], node.origin);
    assert_eq!(text["token"].as_str().unwrap().len(), 64);
    assert_eq!(text["pid"], std::process::id());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let address = node.origin.strip_prefix("http://").unwrap().to_owned();
    node.stop();
    assert!(!path.exists());
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn stop_is_answered_before_the_node_stops() {
    let mut node = Running::with_group();
    let answer = node.program("POST", "/v1/stop", None);
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    node.stop();
}

#[test]
fn a_link_lets_one_browser_in_once() {
    let node = Running::with_group();
    let answer = node.program("POST", "/v1/open", None).json();
    let link = answer["link"].as_str().unwrap().to_owned();
    let path = link.strip_prefix(&node.origin).unwrap();
    let lines = [format!("GET {path} HTTP/1.1"), host(&node.origin)];
    let first = raw(&node.origin, &lines, b"");
    let cookie = first.header("set-cookie");
    assert!(
        cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"),
        "{cookie}"
    );
    // It goes on by a page of its own: a browser that comes from a file would send no such cookie after a redirect.
    assert_eq!(first.status, 200);
    assert!(
        first.body.contains(r#"content="0; url=/""#),
        "{}",
        first.body
    );
    assert_headers(&first);
    let second = raw(&node.origin, &lines, b"");
    assert_eq!((second.status, second.header("set-cookie")), (401, ""));
    assert!(second.body.contains("used before"));
    assert_headers(&second);
}

#[test]
fn a_browser_reads_the_api_and_changes_nothing_by_it() {
    let node = Running::with_group();
    let browser = node.browser();
    assert_eq!(browser.get("/v1/groups").status, 200);
    let answer = browser.post("/v1/vault/lock", "");
    assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"));
}

#[test]
fn a_form_without_the_secret_of_its_session_does_nothing() {
    let node = Running::with_group();
    let browser = node.browser();
    let link = node.program("POST", "/v1/open", None).json();
    let path = link["link"].as_str().unwrap();
    let path = path.strip_prefix(&node.origin).unwrap().to_owned();
    let other = raw(
        &node.origin,
        &[format!("GET {path} HTTP/1.1"), host(&node.origin)],
        b"",
    );
    let other = Browser {
        node: &node,
        cookie: other.header("set-cookie").split(';').next().unwrap().into(),
    };
    let page = other.get("/").body;
    let csrf = between(&page, r#"name="csrf" value=""#, "\"");
    for form in ["x=1".into(), "csrf=".into(), format!("csrf={csrf}")] {
        let answer = browser.post("/lock", &form);
        assert_eq!(answer.status, 403, "{form}");
    }
    assert_eq!(browser.get("/v1/status").json()["vault"], "open");
}

#[test]
fn the_first_page_makes_a_vault_and_shows_its_words_once() {
    let node = Running::start(Role::Personal, VaultState::None);
    let browser = node.browser();
    assert!(browser.get("/").body.contains("Choose a passphrase"));
    let short = browser.submit("/vault", "passphrase=short&again=short");
    assert_eq!(short.status, 422);
    assert!(short.body.contains("at least 8 are needed"));
    let differing = browser.submit("/vault", "passphrase=long+enough&again=long+enouch");
    assert!(differing.body.contains("not the same"));
    let made = browser.submit("/vault", "passphrase=long+enough&again=long+enough");
    assert_eq!(made.status, 200);
    for word in fake::WORDS.split(' ') {
        assert!(made.body.contains(&format!("<li>{word}</li>")), "{word}");
    }
    let first = browser.get("/").body;
    assert!(first.contains("Your groups") && !first.contains("zone"));
}

#[test]
fn a_locked_vault_asks_for_its_passphrase_wherever_one_goes() {
    let node = Running::with_group();
    let browser = node.browser();
    let answer = browser.submit("/lock", "");
    assert_eq!((answer.status, answer.header("location")), (303, "/"));
    for path in ["/groups/Tuesday", "/groups/Tuesday/members", "/joins/x"] {
        let answer = browser.get(path);
        assert_eq!((answer.status, answer.header("location")), (303, "/"));
    }
    assert!(browser.get("/").body.contains("current-password"));
    let wrong = browser.submit("/unlock", "passphrase=wrong");
    assert_eq!(wrong.status, 403);
    assert!(wrong.body.contains("does not open the vault"));
    let form = format!("passphrase={}", PASSPHRASE.replace(' ', "+"));
    assert_eq!(browser.submit("/unlock", &form).status, 303);
    assert!(browser.get("/").body.contains("Tuesday"));
}

#[test]
fn a_message_is_posted_and_shown_as_it_was_written() {
    let node = Running::with_group();
    let browser = node.browser();
    let form = "text=%3Cb%3Ehi%3C%2Fb%3E%0D%0A++two%0D%0A%D8%B3%D9%84%D8%A7%D9%85";
    let answer = browser.submit("/groups/Tuesday/entries", form);
    assert_eq!(answer.status, 303);
    let page = browser.get(answer.header("location")).body;
    let text = between(&page, r#"<p class="text" dir="auto">"#, "</p>");
    assert_eq!(text, "&#60;b&#62;hi&#60;/b&#62;\n  two\nسلام");
    assert!(page.contains("on this device"));
    browser.submit("/groups/Tuesday/entries", "text=again");
    let page = browser.get("/groups/Tuesday").body;
    assert!(page.contains("on 1 community node until "));
    let stored = browser.get("/v1/groups/Tuesday/entries").json();
    assert_eq!(stored["entries"][0]["text"], "<b>hi</b>\n  two\nسلام");
}

#[test]
fn a_refused_message_is_not_lost() {
    let node = Running::with_group();
    let browser = node.browser();
    let long = "ab ".repeat(TEXT_MAX / 2);
    let form = format!("text={}", long.replace(' ', "+"));
    let answer = browser.submit("/groups/Tuesday/entries", &form);
    assert_eq!(answer.status, 413);
    assert!(answer.body.contains(long.trim_end()));
    assert!(answer.body.contains("at most 32768 bytes"));
    let answer = browser.submit("/groups/Tuesday/entries", "text=+");
    assert!(answer.body.contains("the message is empty"));
}

#[test]
fn earlier_messages_can_be_reached() {
    let node = Running::with_group();
    for n in 0..120 {
        let body = json!({ "text": format!("message {n}.") });
        node.program("POST", "/v1/groups/Tuesday/entries", Some(body));
    }
    let browser = node.browser();
    let (mut path, mut pages) = ("/groups/Tuesday".to_owned(), Vec::new());
    loop {
        let page = browser.get(&path).body;
        pages.push(page.matches(r#"class="text""#).count());
        let Some((_, rest)) = page.split_once(r#"?before="#) else {
            break;
        };
        let group = between(&page, "data-group=\"", "\"");
        path = format!("/groups/{group}?before={}", rest.split('"').next().unwrap());
    }
    assert_eq!(pages, [50, 50, 20]);
}

#[test]
fn groups_invites_and_members_work_without_javascript() {
    let node = Running::with_group();
    let browser = node.browser();
    let started = browser.submit("/groups", "name=Night+walk&pseudonym=Ana");
    assert_eq!(started.status, 303);
    let refused = browser.submit("/groups", "name=+&pseudonym=Ana");
    assert_eq!(refused.status, 422);
    assert!(refused.body.contains(r#"value="Ana""#));

    let invite = browser.submit("/groups/Tuesday/invites", "days=7&uses=2");
    assert!(invite.body.contains("kith:") && invite.body.contains("<svg class=\"qr\""));
    let many = browser.submit("/groups/Tuesday/invites", "days=31&uses=1");
    assert!(many.body.contains("1 to 30 days"));
    let list = browser.get("/groups/Tuesday/invites").body;
    assert!(list.contains("0 of 2 joined") && !list.contains("kith:"));
    let revoke = list.split('"').find(|part| part.ends_with("/revoke"));
    let answer = browser.submit(revoke.unwrap(), "");
    assert!(
        browser
            .get(answer.header("location"))
            .body
            .contains(">closed<")
    );

    let members = browser.get("/groups/Tuesday/members").body;
    assert!(members.contains("Remove <bdi>Ben</bdi>"));
    assert!(!members.contains("Stop being a steward"), "Ana is the last");
    let last = browser.submit("/groups/Tuesday/members/Ana/demote", "");
    assert_eq!(last.status, 409);
    assert!(last.body.contains("a group needs a steward"));
    let promote = members.split('"').find(|part| part.ends_with("/promote"));
    let answer = browser.submit(promote.unwrap(), "");
    assert_eq!(answer.status, 303);
    let members = browser.get(answer.header("location")).body;
    assert!(members.contains("2 stewards look after"));
    assert!(members.contains("End the stewardship of <bdi>Ben</bdi>"));
    assert!(members.contains("Stop being a steward"));
    let answer = browser.submit("/groups/Tuesday/members/Ben/demote", "");
    assert_eq!(answer.status, 303);
    let page = browser.get("/groups/Tuesday").body;
    assert!(page.contains("2 members, 1 steward<"));
    assert!(page.contains("<bdi>Ana</bdi> made <bdi>Ben</bdi> a steward."));
    assert!(page.contains("<bdi>Ana</bdi> ended the stewardship of <bdi>Ben</bdi>."));
    let missing = browser.submit("/groups/Tuesday/members/Ben/remove", "reason=");
    assert!(missing.body.contains("needs a reason"));
    let removed = browser.submit("/groups/Tuesday/members/Ben/remove", "reason=paid+ads");
    assert_eq!(removed.status, 303);
    let page = browser.get("/groups/Tuesday").body;
    assert!(page.contains("removed <bdi>Ben</bdi>") && page.contains("paid ads"));
    assert_eq!(browser.submit("/groups/Tuesday/leave", "").status, 303);
    let page = browser.get("/groups/Tuesday").body;
    assert!(page.contains("You left this group") && !page.contains("<textarea"));
}

#[test]
fn community_nodes_are_shown_added_and_taken_away_on_the_page() {
    let node = Running::with_group();
    let browser = node.browser();
    let other = "/dns4/relay.example/tcp/4001/p2p/12D3KooWOther";
    let form = format!("address=++{}++", other.replace('/', "%2F"));
    for (path, may_be_empty) in [("/community", true), ("/groups/Tuesday/community", false)] {
        let page = browser.get(path).body;
        assert!(page.contains(fake::COMMUNITY) && page.contains("Connected"));
        assert_eq!(
            page.contains("Take it off the list"),
            may_be_empty,
            "the last one"
        );
        let added = browser.submit(path, &form);
        assert_eq!(added.status, 303);
        let page = browser.get(added.header("location")).body;
        assert!(page.contains(other) && page.contains("Take it off the list"));
        let first = format!("address={}", fake::COMMUNITY.replace('/', "%2F"));
        let taken = browser.submit(&format!("{path}/remove"), &first);
        assert_eq!(taken.status, 303);
        let page = browser.get(taken.header("location")).body;
        assert!(page.contains(other) && !page.contains(fake::COMMUNITY));
        let again = browser.submit(&format!("{path}/remove"), &first);
        assert_eq!(again.status, 404);
        assert!(
            again
                .body
                .contains("no community node of that address is listed")
        );
        let long = browser.submit(path, &format!("address={}", "x".repeat(257)));
        assert_eq!(long.status, 400);
    }
    let page = browser.get("/groups/Tuesday").body;
    assert!(page.contains("added a community node") && page.contains("off the list"));
    assert!(browser.get("/").body.contains(r#"href="/community""#));
}

#[test]
fn what_settles_and_what_waits_is_told_without_naming_anybody() {
    let node = Running::with_group();
    let browser = node.browser();
    browser.submit("/groups", "name=Rough+night&pseudonym=Ana");
    browser.submit("/groups/Rough%20night/entries", "text=hello");
    let page = browser.get("/groups/Rough%20night").body;
    for sentence in [
        "Settling: 1 of 3 stewards has confirmed the latest change.",
        "1 change that was asked for is not in effect yet.",
        "2 messages of yours wait on this device until the removal is in effect",
        "Sent before re-sync",
    ] {
        assert!(page.contains(sentence), "{sentence}: {page}");
    }
    assert!(!page.contains("Eli"), "a removal is shown once it is one");
    browser.submit("/groups/Tuesday/entries", "text=hello");
    let page = browser.get("/groups/Tuesday").body;
    for word in ["Settling", "not in effect", "wait", "re-sync"] {
        assert!(!page.contains(word), "{word}: {page}");
    }
    browser.submit("/groups/Rough%20night/leave", "");
    let page = browser.get("/groups/Rough%20night").body;
    assert!(!page.contains("Settling"), "it is over for Ana");
}

#[test]
fn a_newcomer_is_told_how_the_request_stands() {
    let node = Running::with_group();
    let browser = node.browser();
    let now = browser.submit("/join", "link=+kith:now%0D%0A&pseudonym=Chloe");
    assert!(
        browser
            .get(now.header("location"))
            .body
            .contains("You are in")
    );
    let broken = browser.submit("/join", "link=kith:nonsense&pseudonym=Chloe");
    assert_eq!(broken.status, 422);
    assert!(broken.body.contains("not a complete invite link"));
    assert!(!broken.body.contains("nonsense"));
    let later = browser.submit("/join", "link=kith:later&pseudonym=Chloe");
    let path = later.header("location").to_owned();
    assert!(browser.get(&path).body.contains("waits for a steward"));
    node.refuse(ApiError::invite_used_up());
    assert!(browser.get(&path).body.contains("this invite was used up"));
}

#[test]
fn a_community_node_shows_its_addresses_and_no_groups() {
    let node = Running::start(Role::Community, VaultState::None);
    let page = node.browser().get("/").body;
    assert!(page.contains("/ip4/127.0.0.1/tcp/4002") && !page.contains("passphrase"));
    assert_eq!(node.program("GET", "/v1/groups", None).code(), "wrong_role");
}

#[test]
fn pages_need_no_inline_code_nothing_from_elsewhere_and_keep_their_headers() {
    let node = Running::with_group();
    let browser = node.browser();
    let body = json!({ "text": "hello" });
    node.program("POST", "/v1/groups/Tuesday/entries", Some(body));
    let later = browser.submit("/join", "link=kith:later&pseudonym=Chloe");
    let join = later.header("location").to_owned();
    let mut answers: Vec<Answer> = [
        "/",
        "/groups/Tuesday",
        "/groups/Tuesday/members",
        "/groups/Tuesday/invites",
        "/groups/nowhere",
        "/open?code=x",
        &join,
    ]
    .map(|path| browser.get(path))
    .into();
    answers.push(browser.submit("/groups/Tuesday/invites", "days=7&uses=1"));
    answers.push(browser.submit("/lock", ""));
    answers.push(browser.get("/"));
    for answer in &answers {
        assert_headers(answer);
        let page = &answer.body;
        for word in [
            "<style",
            " style=",
            " onclick",
            "javascript:",
            "http://",
            "https://",
        ] {
            assert!(!page.contains(word), "{word}: {page}");
        }
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script src=\"/").count()
        );
        assert!(page.is_empty() || page.contains("<title>kith</title>"));
        assert!(page.is_empty() || page.contains("<html lang=\"en\">"));
        assert!(page.len() < 200_000);
    }
    for path in ["/assets/style.css", "/assets/kith.js", "/assets/icon.svg"] {
        let answer = browser.get(path);
        assert_eq!(answer.status, 200);
        assert_headers(&answer);
    }
}

#[test]
fn harsh_words_appear_nowhere_in_the_page() {
    let harsh = [
        "reset", "failed", "clean", "dirty", "addict", "abuse", "day 0",
    ];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["templates", "assets"] {
        for file in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
            for word in harsh {
                assert!(!text.contains(word), "{word} in {}", path.display());
            }
        }
    }
}
