//! Which backend of a rule gets a request.

use fastrand::Rng;

use super::model::WeightedBackend;

/// Draws a backend: each one's share is its weight over the sum of all. `None` when there is no backend or all weights are 0.
///
/// Backends that are marked invalid take part: their share is answered with an error, not given to others.
#[must_use]
pub fn choose(backends: &[WeightedBackend], rng: &mut Rng) -> Option<usize> {
    // As u64 the sum of u32 weights cannot overflow: that would take 2^32 backends.
    let total: u64 = backends.iter().map(|it| u64::from(it.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = rng.u64(0..total);
    backends.iter().position(|it| {
        let weight = u64::from(it.weight);
        let chosen = left < weight;
        left = left.saturating_sub(weight);
        chosen
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::{Just, prop_assert, prop_assert_eq, prop_assume, prop_oneof, proptest};

    fn backends(weights: &[u32]) -> Vec<WeightedBackend> {
        let backend = |weight: &u32| WeightedBackend {
            backend: "shop/reviews:80".parse().unwrap(),
            weight: *weight,
            filters: Vec::new(),
            mirrors: Vec::new(),
            session: None,
            invalid: None,
        };
        weights.iter().map(backend).collect()
    }

    fn shares(weights: &[u32], draws: u32, seed: u64) -> Vec<u32> {
        let backends = backends(weights);
        let mut rng = Rng::with_seed(seed);
        let mut counts = vec![0; weights.len()];
        for _ in 0..draws {
            counts[choose(&backends, &mut rng).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn without_weight_nobody_is_chosen() {
        assert_eq!(choose(&backends(&[]), &mut Rng::with_seed(1)), None);
        assert_eq!(choose(&backends(&[0]), &mut Rng::with_seed(1)), None);
        assert_eq!(choose(&backends(&[0, 0]), &mut Rng::with_seed(1)), None);
        assert_eq!(choose(&backends(&[0, 1, 0]), &mut Rng::with_seed(1)), Some(1));
    }

    #[test]
    fn weights_whose_sum_exceeds_32_bits_keep_their_shares() {
        let counts = shares(&[u32::MAX, u32::MAX, u32::MAX, 0], 30_000, 7);
        assert_eq!(counts[3], 0);
        assert!(counts.iter().take(3).all(|count| (9_400..10_600).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn shares_follow_weights(weights in vec(prop_oneof![Just(0u32), 1..100u32, 1_000_000..u32::MAX], 1..8)) {
            const DRAWS: u32 = 20_000;
            let total: f64 = weights.iter().map(|it| f64::from(*it)).sum();
            prop_assume!(total > 0.0);
            for (weight, count) in weights.iter().zip(shares(&weights, DRAWS, 42)) {
                if *weight == 0 {
                    prop_assert_eq!(count, 0);
                    continue;
                }
                // Six standard deviations of a binomial: out of reach by chance, far below any real mistake.
                let share = f64::from(*weight) / total;
                let deviation = (f64::from(DRAWS) * share * (1.0 - share)).sqrt();
                let off = (f64::from(count) - f64::from(DRAWS) * share).abs();
                prop_assert!(off <= 6.0 * deviation + 3.0, "{} of {}, wanted {}", count, DRAWS, share);
            }
        }
    }
}
