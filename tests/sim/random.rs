//! Random worlds from a fixed set of seeds. `SEED=n` runs that one alone; `TRACE=1` says what happens.

use tests::sim::{Report, Scope, Size, plan};

/// The seeds that every change must survive.
const SEEDS: std::ops::Range<u64> = 0..60;
const SIZE: Size = Size {
    members: 12,
    commands: 40,
};

#[test]
fn members_agree_and_read_everything_in_random_worlds() {
    let only = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seeds = only.map_or(SEEDS, |seed: u64| seed..seed + 1);
    let mut total = Report::default();
    for seed in seeds {
        println!("SEED={seed}");
        let ran = plan::run(seed, SIZE, Scope::TODAY);
        assert!(ran.failures.is_empty(), "SEED={seed}: {:#?}", ran.failures);
        total.add(&ran.report);
    }
    println!("{total}");
    assert!(
        only.is_some() || total.posts > 0,
        "the worlds are not empty"
    );
}
