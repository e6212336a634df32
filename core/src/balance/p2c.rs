//! The power of two choices: of two random endpoints the cheaper one.
//!
//! Always taking the cheapest of all makes every caller run to the same endpoint; taking a random one ignores what is known. The
//! better of two random ones is almost as good as the best and does not herd.

use fastrand::Rng;

/// Draws two distinct candidates among `count` and returns the cheaper one, the first drawn if they cost the same. Those that
/// `barred` names are not drawn; `barred_count` is the most that it can name. `None`: there is no candidate.
///
/// Takes at most `2 * barred_count + 2` calls of `barred`, however many candidates there are.
pub(super) fn choose(
    count: usize,
    barred_count: usize,
    barred: impl Fn(usize) -> bool,
    cost: impl Fn(usize) -> f64,
    rng: &mut Rng,
) -> Option<usize> {
    if count == 0 {
        return None;
    }
    // Steps over the barred ones from a random start.
    let next =
        |start: usize| (0..=barred_count.min(count - 1)).map(|step| (start + step) % count).find(|candidate| !barred(*candidate));
    let first = next(rng.usize(..count))?;
    if count == 1 {
        return Some(first);
    }
    let second = next((first + 1 + rng.usize(..count - 1)) % count)?;
    Some(if cost(second) < cost(first) { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    /// How often each of `count` candidates is chosen in 10,000 draws.
    fn shares(count: usize, barred: &[usize], cost: impl Fn(usize) -> f64 + Copy) -> Vec<f64> {
        let mut rng = Rng::with_seed(11);
        let mut chosen = vec![0.0; count];
        for _ in 0..10_000 {
            let candidate = choose(count, barred.len(), |it| barred.contains(&it), cost, &mut rng).unwrap();
            chosen[candidate] += 1.0 / 10_000.0;
        }
        chosen
    }

    fn assert_shares(shares: &[f64], expected: &[f64]) {
        assert!(shares.iter().zip(expected).all(|(it, expected)| (it - expected).abs() < 0.03), "{shares:?}, not {expected:?}");
    }

    #[test]
    fn equals_are_chosen_equally_often() {
        assert_shares(&shares(5, &[], |_| 1.0), &[0.2; 5]);
        assert_shares(&shares(2, &[], |_| 1.0), &[0.5; 2]);
    }

    #[test]
    fn the_cheaper_wins_and_the_dearest_never_does() {
        // Of four, the k-th cheapest wins the pairs with all behind it: 3, 2, 1, 0 of 6.
        let cost = |it: usize| [10.0, 20.0, 30.0, 40.0][it];
        assert_shares(&shares(4, &[], cost), &[3.0 / 6.0, 2.0 / 6.0, 1.0 / 6.0, 0.0]);
    }

    #[test]
    fn one_that_is_left_is_chosen() {
        assert_shares(&shares(4, &[0, 1, 3], |_| 1.0), &[0.0, 0.0, 1.0, 0.0]);
        assert_shares(&shares(1, &[], |_| 1.0), &[1.0]);
    }

    proptest! {
        #[test]
        fn a_barred_one_is_never_chosen_and_somebody_is_if_there_is_one(
            count in 0_usize..20, barred in proptest::collection::hash_set(0_usize..20, 0..20), seed: u64,
        ) {
            let calls = std::cell::Cell::new(0);
            let is_barred = |it| { calls.set(calls.get() + 1); barred.contains(&it) };
            let chosen = choose(count, barred.len(), is_barred, |_| 1.0, &mut Rng::with_seed(seed));
            prop_assert!(chosen.is_none_or(|it| it < count && !barred.contains(&it)));
            prop_assert_eq!(chosen.is_some(), (0..count).any(|it| !barred.contains(&it)));
            prop_assert!(calls.get() <= 2 * barred.len() + 2);
        }
    }
}
