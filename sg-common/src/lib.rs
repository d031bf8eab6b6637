//! What the kernel programs and the daemon share: the ABI of the maps, reading packets, and every decision.
//!
//! The code here is `no_std` and has `unsafe` where memory is shared with other CPUs ([`table`], [`conntrack::FlowRef`]); it runs in the kernel through
//! `sg-ebpf`, and unchanged on the host in tests, in `explain` and wherever the daemon has to know what the kernel
//! would say. Read it in this order:
//!
//! 1. [`abi`]: what stands in the maps;
//! 2. [`judge`]: one packet, one verdict;
//! 3. [`classify`] (new flows, with [`exact`] tables), [`conntrack`], [`table`] and [`tcp`] (known flows), [`baseline`] (what no rule governs);
//! 4. [`verdict`]: the one list of reasons; [`watch`]: who wants to hear of it.
#![no_std]

pub mod abi;
pub mod account;
pub mod baseline;
pub mod checksum;
pub mod classify;
pub mod conntrack;
pub mod exact;
pub mod family;
pub mod forward;
pub mod fragment;
pub mod headers;
pub mod judge;
pub mod metrics;
pub mod packet;
pub mod table;
pub mod tcp;
pub mod verdict;
pub mod watch;
