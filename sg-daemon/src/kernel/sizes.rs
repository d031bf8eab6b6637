//! How many connections there is room for.

use sg_common::abi::map;

use super::KernelError;

/// How many flows the connection tables hold. All of it is allocated when the tables are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSizes {
    /// Live flows: a table of this size for each family, and as many of both together.
    pub live: u32,
    pub half_open_v4: u32,
    pub half_open_v6: u32,
}

impl Default for TableSizes {
    fn default() -> Self {
        Self::new(Self::LIVE, Self::HALF_OPEN)
    }
}

impl TableSizes {
    /// The default of `sgd --live-flows`.
    pub const LIVE: u32 = 262_144;
    /// The default of `sgd --half-open-flows`.
    pub const HALF_OPEN: u32 = 131_072;
    /// Fewer could leave an interface without a share (511 interfaces share out 512 parts), and more would be many
    /// gigabytes.
    pub const MIN: u32 = 1024;
    pub const MAX: u32 = 16_777_216;

    /// `half_open` flows of IPv4, half as many of IPv6.
    pub const fn new(live: u32, half_open: u32) -> Self {
        Self { live, half_open_v4: half_open, half_open_v6: half_open / 2 }
    }

    /// One for every flow that there may be.
    const fn accounts(self) -> u32 {
        self.live + self.half_open_v4 + self.half_open_v6
    }

    /// What each map is made with.
    pub(super) fn by_map(self) -> [(&'static str, u32); 8] {
        [
            (map::FLOWS_V4, self.live),
            (map::FLOWS_V6, self.live),
            (map::HALF_V4, self.half_open_v4),
            (map::HALF_V6, self.half_open_v6),
            (map::RING_V4, self.half_open_v4),
            (map::RING_V6, self.half_open_v6),
            (map::ACCOUNTS_V4, self.accounts()),
            (map::ACCOUNTS_V6, self.accounts()),
        ]
    }

    /// What fits in maps of these sizes. A daemon that died while it made them may have left some of another size.
    pub(super) fn from_maps(
        entries: impl Fn(&'static str) -> Result<u32, KernelError>,
    ) -> Result<Self, KernelError> {
        let both = |one, other| Ok::<_, KernelError>(entries(one)?.min(entries(other)?));
        Ok(Self {
            live: both(map::FLOWS_V4, map::FLOWS_V6)?,
            half_open_v4: both(map::HALF_V4, map::RING_V4)?,
            half_open_v6: both(map::HALF_V6, map::RING_V6)?,
        })
    }
}

impl std::fmt::Display for TableSizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { live, half_open_v4, half_open_v6 } = self;
        write!(f, "{live} live flows, {half_open_v4} half-open ones of IPv4 and {half_open_v6} of IPv6")
    }
}
