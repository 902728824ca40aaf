//! What the check says of an image that something went over.

#[expect(dead_code, reason = "not every helper is needed here")]
mod support;

use farkeep_core::heap::{Offset, View};
use farkeep_core::pmem::mem::Mem;
use farkeep_keystore::{Keystore, verify};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::Store;

fn view_of(image: &[u8]) -> View {
    let mut mem = Mem::anonymous(image.len()).unwrap();
    mem.set_limit(image.len());
    mem.bytes_mut(0, image.len()).copy_from_slice(image);
    View::of_image(mem, image.len() as u64)
}

/// An image with something of everything in it, garbage waiting to be reclaimed included.
fn image() -> Vec<u8> {
    let mut store = Store::new(64 << 20, true);
    for number in 0..300 {
        store.say(&format!("SET key:{number} {}", "v".repeat(number)));
        store.say(&format!("SETEX mortal:{number} 1000 {number}"));
        store.say(&format!("HSET small f {number} g value"));
        store.say(&format!("HSET big field:{number} value"));
    }
    store.say(&format!("SET block {}", "v".repeat(10_000)));
    for field in 0..200 {
        store.say(&format!("HSET gone f:{field} v"));
    }
    store.say("DEL gone");
    store.work(|ctx| ctx.reclaim(20)).unwrap();
    store.db = 1;
    store.say("SET key:1 v");
    store.log.image.clone()
}

#[test]
fn a_damaged_image_yields_findings_and_no_panic() {
    let sound = image();
    assert!(verify(&view_of(&sound)).findings.is_empty());
    let mut random = SmallRng::seed_from_u64(1);
    // Only pages in use are worth hitting.
    let pages: Vec<usize> = (0..sound.len() / 4096)
        .filter(|page| sound[page * 4096..][..4096].iter().any(|&byte| byte != 0))
        .collect();
    let mut found = 0;
    const ROUNDS: usize = 400;
    for _ in 0..ROUNDS {
        let mut image = sound.clone();
        for _ in 0..random.random_range(1..20) {
            let at = pages[random.random_range(0..pages.len())] * 4096 + random.random_range(0..512) * 8;
            let word: u64 = match random.random_range(0..4) {
                0 => 0,
                1 => random.random(),
                2 => random.random_range(0..image.len() as u64),
                _ => u64::MAX,
            };
            image[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        found += usize::from(!verify(&view_of(&image)).findings.is_empty());
    }
    assert!(found > ROUNDS / 4, "damage was found in {found} of {ROUNDS} images");
}

#[test]
fn a_finding_says_where_the_damage_is() {
    let mut image = image();
    let at = image
        .windows(11)
        .position(|bytes| bytes == b"mortal:7777".as_slice() || bytes.starts_with(b"mortal:299"))
        .unwrap();
    image[at] ^= 1;
    let verified = verify(&view_of(&image));
    let what: Vec<String> = verified.findings.iter().map(ToString::to_string).collect();
    assert!(what.iter().any(|what| what.contains("belongs to bucket")), "{what:?}");
}

#[test]
fn an_image_without_a_keystore_is_refused() {
    let empty = vec![0u8; 1 << 20];
    let error = Keystore::open(&view_of(&empty)).unwrap_err();
    assert_eq!(error.to_string(), "the image holds no keystore");
    let mut foreign = image();
    let table = view_of(&foreign).root(0);
    assert_ne!(table, Offset::NULL);
    foreign[table.get() as usize] ^= 0xFF;
    let error = Keystore::open(&view_of(&foreign)).unwrap_err();
    assert!(error.to_string().contains("not with its magic number"), "{error}");
}
