//! Sets of 16-bit numbers as sorted ranges: ports, ICMP types with codes, protocol numbers.

use std::sync::Arc;

use sg_common::abi::PORT_SET_BYTES;

/// A set of numbers: sorted, disjoint, and no two ranges touch, so equal sets are equal values.
///
/// Most sets are nothing or one range, and are many: each prefix of a policy has eight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ranges(Set);

/// `Several` has two at least.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Set {
    #[default]
    Nothing,
    One([(u16, u16); 1]),
    Several(Arc<[(u16, u16)]>),
}

/// One element of `PORT_SETS`: bit `n % 64` of word `n / 64` says whether `n` is in the set.
pub type Table = [u64; PORT_SET_BYTES / 8];

impl Ranges {
    fn of(ranges: &[(u16, u16)]) -> Self {
        Self(match ranges {
            [] => Set::Nothing,
            &[one] => Set::One([one]),
            several => Set::Several(several.into()),
        })
    }

    pub fn all() -> Self {
        Self(Set::One([(0, u16::MAX)]))
    }

    /// `low..=high`; empty if `low > high`.
    pub fn range(low: u16, high: u16) -> Self {
        if low <= high { Self(Set::One([(low, high)])) } else { Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self.0, Set::Nothing)
    }

    /// The ranges in ascending order, both ends included.
    pub fn as_slice(&self) -> &[(u16, u16)] {
        match &self.0 {
            Set::Nothing => &[],
            Set::One(one) => one,
            Set::Several(several) => several,
        }
    }

    pub fn contains(&self, number: u16) -> bool {
        self.as_slice().iter().any(|&(low, high)| low <= number && number <= high)
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if other.is_empty() || self == other {
            return self.clone();
        }
        if self.is_empty() {
            return other.clone();
        }
        let mut ranges = [self.as_slice(), other.as_slice()].concat();
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match joined.last_mut() {
                Some(last) if u32::from(low) <= u32::from(last.1) + 1 => last.1 = last.1.max(high),
                _ => joined.push((low, high)),
            }
        }
        Self::of(&joined)
    }

    #[must_use]
    pub fn without(&self, number: u16) -> Self {
        let mut left = Vec::with_capacity(self.as_slice().len() + 1);
        for &(low, high) in self.as_slice() {
            if number < low || high < number {
                left.push((low, high));
                continue;
            }
            if low < number {
                left.push((low, number - 1));
            }
            if number < high {
                left.push((number + 1, high));
            }
        }
        Self::of(&left)
    }

    pub fn to_table(&self) -> Box<Table> {
        let mut table = Box::new([0; PORT_SET_BYTES / 8]);
        for &(low, high) in self.as_slice() {
            for number in low..=high {
                if let Some(word) = table.get_mut(usize::from(number >> 6)) {
                    *word |= 1 << (number & 63);
                }
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = (Ranges, Vec<(u16, u16)>)> {
        prop::collection::vec((0u16..40, 0u16..40), 0..6).prop_map(|pairs| {
            let set = pairs.iter().fold(Ranges::default(), |set, &(a, b)| set.union(&Ranges::range(a, b)));
            (set, pairs)
        })
    }

    proptest! {
        #[test]
        fn a_union_holds_what_its_parts_hold((set, parts) in ranges(), number in 0u16..42) {
            let expected = parts.iter().any(|&(low, high)| low <= number && number <= high);
            prop_assert_eq!(set.contains(number), expected);
            let bit = set.to_table()[usize::from(number >> 6)] >> (number & 63) & 1;
            prop_assert_eq!(bit == 1, expected);
        }

        #[test]
        fn equal_sets_are_equal_values((set, _) in ranges()) {
            let rebuilt = (0..42).filter(|&n| set.contains(n)).fold(Ranges::default(), |s, n| s.union(&Ranges::range(n, n)));
            prop_assert_eq!(rebuilt, set);
        }

        #[test]
        fn without_takes_one_number_out((set, _) in ranges(), gone in 0u16..42, number in 0u16..42) {
            prop_assert_eq!(set.without(gone).contains(number), set.contains(number) && number != gone);
        }
    }

    #[test]
    fn the_ends_of_the_number_space_are_kept() {
        assert!(Ranges::all().without(0).contains(65535));
        assert!(!Ranges::all().without(65535).contains(65535));
        assert_eq!(Ranges::all().union(&Ranges::range(5, 6)), Ranges::all());
    }
}
