//! Is space given back?

use super::*;

#[tokio::test]
#[ignore = "measures"]
async fn measure_space() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let size = |store: &Store| store.size_on_disk().unwrap() / 1024 / 1024;
    for len in [520_usize, 4100, 16400] {
        let total = 60 * 1024 * 1024;
        let many = total / len;
        for round in 0..3 {
            let start = Instant::now();
            for at in 0..many {
                let mut key = vec![16];
                key.extend(blake(round, at));
                store
                    .apply(vec![Write {
                        key,
                        value: Some(noise(len, at)),
                    }])
                    .unwrap();
                if at % 64 == 0 {
                    store.hard_flush().await.unwrap();
                }
            }
            store.hard_flush().await.unwrap();
            let full = size(&store);
            let wrote = start.elapsed();
            let start = Instant::now();
            for at in 0..many {
                let mut key = vec![16];
                key.extend(blake(round, at));
                store.apply(vec![Write { key, value: None }]).unwrap();
                if at % 4096 == 0 {
                    store.hard_flush().await.unwrap();
                }
            }
            store.hard_flush().await.unwrap();
            println!(
                "len {len} round {round}: {} MiB of values, full {full} MiB, after deleting {} MiB; wrote {wrote:?} deleted {:?}",
                total / 1024 / 1024,
                size(&store),
                start.elapsed()
            );
        }
    }
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    println!("after reopening {} MiB", size(&store));
}

fn blake(round: usize, at: usize) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(format!("{round} {at}")).into()
}

fn noise(len: usize, at: usize) -> Vec<u8> {
    let mut seed = at as u64 + 1;
    (0..len)
        .map(|_| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 56) as u8
        })
        .collect()
}
