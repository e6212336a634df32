//! Inputs from a directory of kept ones, as they are and changed a little, the same ones in every run.

use std::path::Path;

use fastrand::Rng;

/// Bytes that mean something to somebody who reads bytes.
const SPECIAL: [&[u8]; 18] = [
    b"\0", b"\xff", b"\r\n", b"\n", b" ", b":", b"/", b"//", b"%", b"%2F", b"%00", b"?", b"#", b"@", b"..", b"[::1]", b"\x80",
    b",",
];

/// An input never grows beyond this.
const MAX_LENGTH: usize = 40 * 1024;

/// Gives `examine` every file of `corpus/<target>`, and then `rounds` inputs made of them.
pub(crate) fn each(target: &str, rounds: usize, mut examine: impl FnMut(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/corpus").join(target);
    let listed = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = listed.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "nothing is kept in {}", directory.display());
    seeds.iter().for_each(|seed| examine(seed));
    let mut rng = Rng::with_seed(0x5eed);
    for _ in 0..rounds {
        let mut input = seeds[rng.usize(..seeds.len())].clone();
        for _ in 0..rng.usize(1..6) {
            change(&mut input, &seeds, &mut rng);
        }
        input.truncate(MAX_LENGTH);
        examine(&input);
    }
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut Rng) {
    let (from, to) = (rng.usize(..=input.len()), rng.usize(..=input.len()));
    let (from, to) = (from.min(to), from.max(to));
    match rng.u8(..7) {
        0 if from < input.len() => input[from] ^= 1 << rng.u8(..8),
        1 if from < input.len() => input[from] = rng.u8(..),
        2 => drop(input.drain(from..to.min(from + 16))),
        3 => drop(input.splice(from..from, SPECIAL[rng.usize(..SPECIAL.len())].iter().copied())),
        4 => {
            let piece = input[from..to].to_vec();
            drop(input.splice(from..from, piece));
        }
        5 => {
            let other = &seeds[rng.usize(..seeds.len())];
            let at = rng.usize(..=other.len());
            input.truncate(from);
            input.extend_from_slice(&other[at..]);
        }
        _ => input.truncate(to),
    }
}
