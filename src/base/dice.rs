//! The one source of chance, seeded, so that a run can be repeated.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A seed from which independent streams are drawn by name.
///
/// Every use has its own stream, named after what it decides. Adding a fault to a file therefore
/// does not change what the others draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dice {
    seed: u64,
}

impl Dice {
    /// Dice that always fall the same for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A seed nobody chose: printed by the run, so that it can be repeated. Kept to 32 bits because
    /// people copy it by hand.
    #[must_use]
    pub fn drawn() -> Self {
        Self::new(u64::from(rand::random::<u32>()))
    }

    /// The seed, as a person would type it.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The stream of one decision, for example `fault.crash.pick`.
    #[must_use]
    pub fn stream(&self, decision: &str) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(fnv1a(decision.as_bytes()));
        rng
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo; <http://www.isthe.com/chongo/tech/comp/fnv/>): stable over
/// releases, unlike the standard library's hasher.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn a_stream_repeats_and_does_not_depend_on_the_others() {
        let draw = |name: &str| -> Vec<u32> {
            let mut rng = Dice::new(42).stream(name);
            (0..4).map(|_| rng.random()).collect()
        };
        assert_eq!(draw("pick"), draw("pick"));
        assert_ne!(draw("pick"), draw("delay"));
    }
}
