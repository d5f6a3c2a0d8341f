//! What an operator installs: the Debian package, its service, and the dashboard.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::http;
use tests::kith::program;
use tests::process::{Community, port_below_ephemeral};

fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("tests/ lies in the repository")
        .to_owned()
}

/// Runs a command and gives what it prints.
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{errors}");
    said
}

/// Builds the package with cargo-deb from the program that is tested, as an operator would from the
/// optimised one.
fn build_package(dir: &Path) -> PathBuf {
    let target = dir.join("target");
    fs::create_dir_all(target.join("release")).unwrap();
    fs::copy(program(), target.join("release/kith")).unwrap();
    let installed = repository().join("target/tools/bin/cargo-deb");
    let mut deb = if installed.is_file() {
        Command::new(installed)
    } else {
        Command::new("cargo-deb")
    };
    // The program has been built, and stays as it is; compressing it well would take minutes.
    deb.args(["--package", "kith", "--no-build", "--no-strip", "--fast"]);
    deb.args(["--offline", "--locked"]);
    let package = dir.join("kith.deb");
    deb.arg("--output").arg(&package);
    deb.current_dir(repository())
        .env("CARGO_TARGET_DIR", &target);
    let built = deb.output();
    let built = built.expect("cargo-deb is missing: tests/run installs it");
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{deb:?}: {errors}");
    package
}

#[test]
fn the_debian_package_is_installed_runs_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let package = build_package(dir.path());

    // A root of its own: nothing of this machine is touched.
    let root = dir.path().join("root");
    for part in [
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
        "var/lib/dpkg/triggers",
        "var/log",
    ] {
        fs::create_dir_all(root.join(part)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = |action: &str, what: &Path| {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", root.display()));
        // The libraries of this machine are used; scripts see the root by its path.
        command.args([
            "--force-depends",
            "--force-script-chrootless",
            "--force-not-root",
        ]);
        command.args(["--force-bad-path", action]).arg(what);
        run(&mut command)
    };
    dpkg("--install", &package);
    let kith = root.join("usr/bin/kith");
    let version = run(Command::new(&kith).arg("--version"));
    assert!(version.starts_with("kith "), "{version}");
    let control = run(Command::new("dpkg-deb").arg("--field").arg(&package));
    for line in ["Package: kith", "Section: net", "Depends: libc6, libgcc-s1"] {
        assert!(control.contains(line), "{line}: {control}");
    }
    let config = root.join("etc/kith/community.toml");
    let in_force = run(Command::new(&kith)
        .args(["community", "--check-config", "--config"])
        .arg(&config));
    assert!(
        in_force.contains("metrics_listen = \"127.0.0.1:9464\""),
        "{in_force}"
    );
    let service = root.join("lib/systemd/system/kith-community.service");
    let service = fs::read_to_string(service).unwrap();
    assert!(service.contains(
        "ExecStart=/usr/bin/kith --profile /var/lib/kith community --config /etc/kith/community.toml"
    ));
    for document in [
        "operator.md",
        "scaling.md",
        "README.md",
        "THREATS.md",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "copyright",
        "grafana-dashboard.json",
    ] {
        assert!(
            root.join("usr/share/doc/kith").join(document).is_file(),
            "{document}"
        );
    }
    dpkg("--remove", Path::new("kith"));
    assert!(!kith.exists());
    assert!(
        config.exists(),
        "what the operator wrote stays until purged"
    );
    dpkg("--purge", Path::new("kith"));
    assert!(!config.exists());
}

#[test]
fn the_dashboard_asks_for_nothing_that_is_not_served() {
    let listen = format!("127.0.0.1:{}", port_below_ephemeral());
    let _community = Community::start_with(&["--metrics", &listen]);
    let scraped = http::get(&format!("http://{listen}"), "/metrics").body;
    let dashboard = repository().join("packaging/grafana-dashboard.json");
    let dashboard = fs::read_to_string(dashboard).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    assert!(parsed["panels"].as_array().unwrap().len() > 10);
    let name = |text: &str| {
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        format!("kith_community{}", &text[..end.unwrap_or(text.len())])
    };
    let asked: BTreeSet<String> = dashboard
        .split("kith_community")
        .skip(1)
        .map(name)
        .collect();
    assert!(asked.len() > 15, "{asked:?}");
    for metric in asked {
        let told = metric
            .trim_end_matches("_total")
            .trim_end_matches("_bucket");
        assert!(
            scraped.contains(&format!("# TYPE {told} ")),
            "{metric} is not served"
        );
    }
}
