//! Choices out of one number: zero chooses the first of everything, so that what shrinks becomes plain.

#[derive(Debug, Clone, Copy)]
pub struct Dice(pub u64);

impl Dice {
    /// Below `count`.
    pub fn below(&mut self, count: u64) -> u64 {
        let chosen = self.0 % count;
        self.0 /= count;
        chosen
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == times - 1
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}
