//! The local API: described by its own document, open to whoever holds the token, closed to all others.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use serde_json::{Value, json};
use tests::http::Api;
use tests::process::{Community, Member};
use tests::wait::UNTIL_DELIVERED;

const DOCUMENT: &str = "/v1/openapi.json";
/// A community node that another one recommends, so that it has a list to publish.
const RECOMMENDED: &str = "recommend=/ip4/203.0.113.7/tcp/4001/p2p/\
                           12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp Why not";

fn ana() -> (Community, Member, Api) {
    let community = Community::start_with(&["--set", RECOMMENDED]);
    let ana = Member::start("Ana", &community);
    let api = Api::of(&ana.kith);
    (community, ana, api)
}

/// The paths of the document that can be had without knowing anything: GET, and no parameter that must be given.
fn plain_paths(document: &Value) -> Vec<String> {
    let paths = document["paths"]
        .as_object()
        .expect("the document has paths");
    let plain = paths.iter().filter(|(path, item)| {
        let parameters = |of: &Value| of["parameters"].as_array().cloned().unwrap_or_default();
        let required = |parameter: &Value| parameter["required"] == true;
        let asked = [parameters(item), parameters(&item["get"])].concat();
        item["get"].is_object() && !path.contains('{') && !asked.iter().any(required)
    });
    plain.map(|(path, _)| path.clone()).collect()
}

#[test]
fn every_documented_path_answers_and_only_with_the_token() {
    let (community, ana, api) = ana();
    let operator = Api::of(&community.node.home().kith());
    ana.creates_group("Lantern");
    let document = api.gets(DOCUMENT).json();
    let version = document["openapi"]
        .as_str()
        .expect("the version of OpenAPI is named");
    assert!(version.starts_with("3."), "{version}");
    let paths = plain_paths(&document);
    for expected in ["/v1/status", "/v1/events"] {
        assert!(
            paths.iter().any(|path| path == expected),
            "{expected} is not among {paths:?}"
        );
    }
    for path in &paths {
        // What only a community node can tell.
        let of_operator = ["/v1/community/report", "/v1/community/published"].contains(&&**path);
        let api = if of_operator { &operator } else { &api };
        let reply = api.gets(path);
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        let open = document["paths"][path]["get"]["security"] == json!([]);
        let without = api.gets_with(path, &[]);
        assert!(
            open || without.status == 401,
            "{path} without the token: {without:?}"
        );
    }
    let wrong = api.gets_with(
        "/v1/status",
        &[("Authorization", "Bearer 0123456789abcdef")],
    );
    assert_eq!(wrong.status, 401);
}

#[test]
fn a_page_from_elsewhere_is_refused() {
    let (_community, _ana, api) = ana();
    for host in ["example.org", "localhost.example.org:80", "0.0.0.0"] {
        let reply = api.gets_also_with("/v1/status", ("Host", host));
        assert!([403, 421].contains(&reply.status), "{host}: {reply:?}");
    }
    for origin in ["https://example.org", "null", "http://127.0.0.1:1"] {
        let reply = api.gets_also_with("/v1/status", ("Origin", origin));
        assert_eq!(reply.status, 403, "{origin}: {reply:?}");
        let bearer = api.bearer();
        let headers = [("Authorization", &*bearer), ("Origin", origin)];
        let reply = api.posts_with("/v1/groups", &json!({}), &headers);
        assert_eq!(reply.status, 403, "{origin}: {reply:?}");
    }
    assert_eq!(api.gets("/v1/status").status, 200);
}

#[test]
fn a_new_message_is_an_event_for_its_author_and_for_others() {
    let (community, ana, api) = ana();
    let ben = Member::start("Ben", &community);
    let group = ana.creates_group("Lantern");
    let invite = ana.kith.invites(&group, &[]);
    ben.joins(&invite.link, "60s").expect("Ben joins");

    let seen_by_ana = api.events();
    let seen_by_ben = Api::of(&ben.kith).events();
    let id = ben
        .kith
        .posts(&group, "Is anybody listening?")
        .expect("it is posted");
    for events in [&seen_by_ana, &seen_by_ben] {
        let line = events.wait_for(&id, UNTIL_DELIVERED);
        let data = line.trim_start_matches("data:");
        let event: Value = serde_json::from_str(data).expect("an event is JSON");
        assert!(
            event.to_string().contains(&group.id),
            "the event names its group: {event}"
        );
    }
}
