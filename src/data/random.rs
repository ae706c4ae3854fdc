//! The random numbers of the data path: SplitMix64 (Steele, Lea, Flood 2014), a 64-bit counter and a mixing function.
//!
//! Shuffles must come out the same on every machine and with every release of every crate, because the order of the rows
//! decides the bytes of the adapter. Twenty lines of our own keep that promise; a crate's default generator does not.
//! The kernels' random numbers (dropout) are Philox and have nothing to do with this.

/// A deterministic generator: the same seed and stream give the same numbers for ever.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// `stream` keeps uses of one seed apart, for example the epochs of one run.
    pub fn new(seed: u64, stream: u64) -> SplitMix64 {
        let mut by_seed = SplitMix64 { state: seed };
        let mut by_stream = SplitMix64 { state: stream ^ by_seed.next_u64() };
        SplitMix64 { state: by_stream.next_u64() }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, each equally likely to within 2⁻⁶⁴·n. `n` must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Fisher-Yates: every order equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_generator() {
        // The reference implementation's first outputs for the state 1234567.
        let mut random = SplitMix64 { state: 1234567 };
        let first: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(first, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_differs_by_seed_and_stream() {
        let order = |seed, stream| {
            let mut items: Vec<usize> = (0..50).collect();
            SplitMix64::new(seed, stream).shuffle(&mut items);
            items
        };
        let mut sorted = order(1, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        assert_ne!(order(1, 2), order(2, 1));
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut random = SplitMix64::new(3, 0);
        let mut count = [[0usize; 4]; 4];
        for _ in 0..4000 {
            let mut items = [0, 1, 2, 3];
            random.shuffle(&mut items);
            items.iter().enumerate().for_each(|(place, &item)| count[place][item] += 1);
        }
        assert!(count.as_flattened().iter().all(|n| (850..1150).contains(n)), "{count:?}");
    }
}
