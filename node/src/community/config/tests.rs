use super::*;

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

fn file(toml: &str) -> Result<Layer, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("community.toml");
    fs::write(&path, toml).unwrap();
    Layer::file(&path)
}

fn of_file(toml: &str) -> Result<Config, ConfigError> {
    Config::of([file(toml)?])
}

fn environment(pairs: &[(&str, &str)]) -> Result<Layer, ConfigError> {
    Layer::environment(
        pairs
            .iter()
            .map(|(name, value)| (name.into(), value.into())),
    )
}

#[test]
fn the_command_line_is_stronger_than_the_environment_and_both_than_the_file() {
    let all = file("retention = \"10d\"\nmax_topics = 7\noperator = \"Ana\"").unwrap();
    let some = environment(&[
        ("KITH_COMMUNITY_RETENTION", "20d"),
        ("KITH_COMMUNITY_MAX_TOPICS", "8"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    let mut one = Layer::default();
    one.flag("--retention 25d", "retention", vec!["25d".into()])
        .unwrap();
    let config = Config::of([all, some, one]).unwrap();
    assert_eq!(config.retention, Span::DAY.times(25));
    assert_eq!(config.quotas.topics, 8);
    assert_eq!(config.operator, "Ana");
    assert_eq!(config.contact, "");
}

#[test]
fn the_example_changes_nothing_and_names_every_key() {
    let example = Config::example();
    assert_eq!(of_file(&example).unwrap(), Config::of([]).unwrap());
    // With every line in force it is still what the defaults are.
    let in_force: String = example
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(|line| format!("{line}\n"))
        .collect();
    let config = of_file(&in_force).unwrap();
    assert!(
        config
            .shown()
            .all(|(.., source)| *source != Source::Default)
    );
    assert_eq!(config.quotas, Config::of([]).unwrap().quotas);
    assert_eq!(config.quotas, Quotas::community());
    assert!(example.lines().all(|line| line.chars().count() <= 108));
}

#[test]
fn what_the_network_cannot_know_is_told_it() {
    let config = of_file("external = [\"/dns4/kith.example.org/tcp/4001\"]").unwrap();
    assert_eq!(config.external, ["/dns4/kith.example.org/tcp/4001"]);
    let error = of_file(&format!(
        "external = [\"/dns4/kith.example.org/tcp/4001/p2p/{PEER}\"]"
    ));
    assert!(error.unwrap_err().to_string().contains("without a peer id"));
}

#[test]
fn peers_are_known_and_lists_reach_the_mailbox() {
    let topic = "ab".repeat(32);
    let config = of_file(&format!(
        "peers = [\"/dns4/lamp.example.org/tcp/4001/p2p/{PEER}\"]\nblock_topics = [\"{topic}\"]"
    ))
    .unwrap();
    let access = config.access();
    assert!(config.peers[0].ends_with(PEER));
    assert_eq!(
        access.block_topics,
        [TopicId::from_bytes([0xab; 32])].into()
    );
    assert!(access.block_clients.is_empty() && access.allow_topics.is_empty());
    assert_eq!(config.policy().retention(true), Span::DAY.times(90));
}

#[test]
fn nodes_are_recommended_with_a_reason_and_several_addresses_of_one_are_one_node() {
    let (lamp, ip) = (
        "/dns4/lamp.example.org/tcp/4001",
        "/ip4/203.0.113.7/tcp/4001",
    );
    let toml = format!(
        "recommend = [\"{lamp}/p2p/{PEER} Run by the centre, and well\", \"{ip}/p2p/{PEER}\"]"
    );
    let config = of_file(&toml).unwrap();
    let [node] = &config.recommend[..] else {
        panic!("{:?}", config.recommend);
    };
    assert_eq!(node.why, "Run by the centre, and well");
    assert_eq!(node.addresses, [lamp, ip]);
    assert_eq!(node.peer, PEER.parse::<Peer>().unwrap().as_bytes());
    assert_eq!(
        of_file(&config.to_toml()).unwrap().recommend,
        config.recommend
    );
    // Elsewhere a semicolon stands between them, since reasons have commas and spaces.
    let value = format!("{lamp}/p2p/{PEER} Run by the centre, and well; {ip}/p2p/{PEER};");
    let written = environment(&[("KITH_COMMUNITY_RECOMMEND", &value)]).unwrap();
    assert_eq!(Config::of([written]).unwrap().recommend, config.recommend);
    for (value, part) in [
        ("Leeds", "bad address"),
        ("/dns4/lamp.example.org/tcp/4001 Leeds", "/p2p/PEER"),
        (&*format!("{lamp}/p2p/{PEER} two\\nlines"), "one line"),
        (
            &*format!("/dns4/{}/tcp/1/p2p/{PEER} Leeds", "x".repeat(200)),
            "180 bytes",
        ),
    ] {
        let error = of_file(&format!("recommend = [\"{value}\"]")).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("recommend in ") && error.contains(part),
            "{error}"
        );
    }
}

#[test]
fn nobody_is_found_and_nobody_is_called_unless_the_operator_says_so() {
    let config = Config::of([]).unwrap();
    assert!(config.discovery().is_none() && !config.list_found);
    for toml in ["discovery = true", "discovery = \"on\""] {
        let discovery = of_file(toml).unwrap().discovery().unwrap();
        assert!(!discovery.private && discovery.seeds.is_empty());
    }
    let blocked = of_file(&format!("discovery = true\nblock_peers = [\"{PEER}\"]")).unwrap();
    assert_eq!(
        blocked.discovery().unwrap().block,
        [PEER.parse::<Peer>().unwrap()]
    );
    for (toml, part) in [
        ("discovery = \"perhaps\"", "neither on nor off"),
        ("list_found = true", "discovery"),
        ("list_life = \"91d\"", "between 1d and 90d"),
        (
            "discovery_seeds = [\"/ip4/203.0.113.7/tcp/4001\"]",
            "/p2p/PEER",
        ),
    ] {
        let error = of_file(toml).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_is_in_force_can_be_read_again() {
    let config = of_file(&format!(
        "operator = \"The \\\"Lamp\\\"\"\npeers = [\"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}\"]\nmax_bytes = \"1GiB\""
    ))
    .unwrap();
    let again = of_file(&config.to_toml()).unwrap();
    assert_eq!(
        (&again.operator, &again.peers),
        (&config.operator, &config.peers)
    );
    assert_eq!(again.quotas, config.quotas);
    assert!(config.to_toml().contains("community.toml"));
}

#[test]
fn an_error_names_the_key_the_place_and_what_to_do() {
    for (toml, parts) in [
        (
            "retention = \"30\"",
            vec!["retention in ", "community.toml", "30d"],
        ),
        (
            "retention = \"1h\"",
            vec!["retention in ", "between 1d and 365d"],
        ),
        (
            "inbox_retention = \"7d\"",
            vec!["inbox_retention in ", "shorter than retention"],
        ),
        (
            "retenton = \"30d\"",
            vec!["\"retenton\"", "did you mean \"retention\"?"],
        ),
        ("colour = \"red\"", vec!["\"colour\"", "--print-config"]),
        ("listen = []", vec!["listen in ", "at least one"]),
        (
            "listen = \"/ip4/0.0.0.0/tcp/4001\"",
            vec!["listen in ", "a list"],
        ),
        (
            "listen = [\"0.0.0.0:4001\"]",
            vec!["listen in ", "/ip4/0.0.0.0/tcp/4001"],
        ),
        (
            "peers = [\"/ip4/203.0.113.7/tcp/4001\"]",
            vec!["peers in ", "/p2p/PEER"],
        ),
        ("max_envelopes = 0", vec!["max_envelopes in ", "at least 1"]),
        (
            "max_envelopes = -5",
            vec!["max_envelopes in ", "whole number"],
        ),
        ("max_bytes = \"8GB\"", vec!["max_bytes in ", "8GiB"]),
        ("max_bytes = \"1KiB\"", vec!["max_bytes in ", "64KiB"]),
        (
            "peer_byte_rate = \"1KiB/h\"",
            vec!["peer_byte_rate in ", "64KiB"],
        ),
        ("put_rate = \"fast\"", vec!["put_rate in ", "500/s"]),
        (
            "metrics_listen = \"0.0.0.0:9464\"",
            vec!["metrics_listen in ", "loopback"],
        ),
        (
            "block_peers = [\"Eli\"]",
            vec!["block_peers in ", "12D3KooW"],
        ),
        (
            "block_topics = [\"00\"]",
            vec!["block_topics in ", "64 hexadecimal digits"],
        ),
        ("[quota]\nretention = 1", vec!["\"quota\""]),
        (
            "operator = \"two\\nlines\"",
            vec!["operator in ", "one line"],
        ),
        ("listen = [", vec!["not valid TOML", "line"]),
    ] {
        let error = of_file(toml).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{toml}: {error}");
        }
    }
    let both = format!("block_peers = [\"{PEER}\"]\nallow_peers = [\"{PEER}\"]");
    assert!(
        of_file(&both)
            .unwrap_err()
            .to_string()
            .contains("allow_peers too")
    );
}

#[test]
fn a_mistyped_variable_or_option_is_not_ignored() {
    let error = environment(&[("KITH_COMMUNITY_RETENTOIN", "20d")]).unwrap_err();
    assert!(
        error.to_string().contains("did you mean \"retention\""),
        "{error}"
    );
    let error = Layer::default().flag("--set colour=red", "colour", vec!["red".into()]);
    assert!(error.unwrap_err().to_string().contains("--set colour=red"));
    let listen = environment(&[(
        "KITH_COMMUNITY_LISTEN",
        "/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2",
    )]);
    assert_eq!(Config::of([listen.unwrap()]).unwrap().listen.len(), 2);
    let missing = Layer::file(Path::new("/nonexistent/community.toml")).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/community.toml"));
}
