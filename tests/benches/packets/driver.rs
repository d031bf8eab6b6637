//! A test run judges one packet many times. This program stands in front of the one that is measured: it makes the packet another
//! flow's each time, in an order that no cache can guess, and goes on to the real program by a tail call.
//!
//! What it costs itself is measured with a program behind it that does nothing.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Result;
use sg_tests::bpf::{self, EXIT, Kind, Run, instruction};

use super::program::{Line, code, resolve};

/// Where a frame says which flow it is of: the last four bytes of one address and one port. Nobody looks at checksums.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    pub address: i16,
    pub port: i16,
}

/// The order in which flows come by: the next one's number is `(number * factor + step) % flows`, and `flows` a power of two, so all
/// of them come once before one comes again.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Order {
    pub number: u32,
    mask: u32,
    factor: u32,
    step: u32,
    /// The last four bytes of the address of the first flows.
    base: u32,
}

/// So many flows have one address.
pub const PORTS: u32 = 256;
pub const FIRST_PORT: u32 = 10_000;

impl Order {
    /// One after the other.
    pub fn counting(first: u32, flows: u32, base: u32) -> Self {
        Self { number: first.wrapping_sub(1), mask: flows - 1, factor: 1, step: 1, base }
    }

    /// Numerical Recipes' generator.
    pub fn shuffled(number: u32, flows: u32, base: u32) -> Self {
        Self { number, mask: flows - 1, factor: 1_664_525, step: 1_013_904_223, base }
    }

    /// As it is after so many packets.
    pub fn after(mut self, packets: u32) -> Self {
        for _ in 0..packets {
            self.number = self.number.wrapping_mul(self.factor).wrapping_add(self.step) & self.mask;
        }
        self
    }

    fn bytes(&self) -> [u8; 20] {
        let words = [self.number, self.mask, self.factor, self.step, self.base];
        let mut bytes = [0; 20];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The driver in front of a program.
pub struct Driver {
    kind: Kind,
    program: OwnedFd,
    order: OwnedFd,
    _behind: OwnedFd,
}

impl Driver {
    pub fn new(kind: Kind, places: Places, target: &OwnedFd) -> Result<Self> {
        let order = bpf::map(bpf::ARRAY, size_of::<Order>() as u32)?;
        let behind = bpf::map(bpf::PROG_ARRAY, 4)?;
        let program = bpf::load(kind, &instructions(kind, places, &order, &behind))?;
        bpf::set(&behind, &(target.as_raw_fd() as u32).to_ne_bytes())?;
        Ok(Self { kind, program, order, _behind: behind })
    }

    pub fn run(&self, ifindex: u32, frame: &[u8], order: Order, repeat: u32) -> Result<Run> {
        bpf::set(&self.order, &order.bytes())?;
        bpf::run(&self.program, self.kind, ifindex, frame, repeat)
    }
}

/// More codes of the instruction set (RFC 9669).
fn instructions(kind: Kind, places: Places, order: &OwnedFd, behind: &OwnedFd) -> Vec<u64> {
    use Line::{Do, Here, Jump};
    use code::{ADD_CONSTANT, CALL, IF_MORE, LOAD_MAP, LOAD_WORD, MOVE, MOVE_CONSTANT, STORE_WORD};
    const STORE_HALF: u8 = 0x6b;
    const TO_BIG_ENDIAN: u8 = 0xdc;
    /// On 32 bits.
    const MULTIPLY: u8 = 0x2c;
    const ADD: u8 = 0x0c;
    const AND: u8 = 0x5c;
    const MOVE_WORD: u8 = 0xbc;
    const AND_CONSTANT: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    let i = |code, to, from, offset, constant| Do(instruction(code, to, from, offset, constant));
    let (data, end) = if kind == Kind::Xdp { (0, 4) } else { (76, 80) };
    let length = i32::from(places.address.max(places.port)) + 4;
    resolve(&[
        i(MOVE, 6, 1, 0, 0),
        i(LOAD_WORD, 7, 6, data, 0),
        i(LOAD_WORD, 8, 6, end, 0),
        i(MOVE, 0, 7, 0, 0),
        i(ADD_CONSTANT, 0, 0, 0, length),
        Jump(instruction(IF_MORE, 0, 8, 0, 0), "end"),
        // BPF_PSEUDO_MAP_VALUE: the address of the map's first value.
        i(LOAD_MAP, 9, 2, 0, order.as_raw_fd()),
        Do(0),
        i(LOAD_WORD, 1, 9, 0, 0),
        i(LOAD_WORD, 2, 9, 8, 0),
        i(MULTIPLY, 1, 2, 0, 0),
        i(LOAD_WORD, 2, 9, 12, 0),
        i(ADD, 1, 2, 0, 0),
        i(LOAD_WORD, 2, 9, 4, 0),
        i(AND, 1, 2, 0, 0),
        i(STORE_WORD, 9, 1, 0, 0),
        i(MOVE_WORD, 2, 1, 0, 0),
        i(AND_CONSTANT, 2, 0, 0, PORTS as i32 - 1),
        i(ADD_CONSTANT, 2, 0, 0, FIRST_PORT as i32),
        i(TO_BIG_ENDIAN, 2, 0, 0, 16),
        i(STORE_HALF, 7, 2, places.port, 0),
        i(SHIFT_RIGHT, 1, 0, 0, PORTS.trailing_zeros() as i32),
        i(LOAD_WORD, 2, 9, 16, 0),
        i(ADD, 1, 2, 0, 0),
        i(TO_BIG_ENDIAN, 1, 0, 0, 32),
        i(STORE_WORD, 7, 1, places.address, 0),
        i(MOVE, 1, 6, 0, 0),
        // BPF_PSEUDO_MAP_FD
        i(LOAD_MAP, 2, 1, 0, behind.as_raw_fd()),
        Do(0),
        i(MOVE_CONSTANT, 3, 0, 0, 0),
        // bpf_tail_call
        i(CALL, 0, 0, 0, 12),
        Here("end"),
        // Not reached: as nobody returns that, it would be seen.
        i(MOVE_CONSTANT, 0, 0, 0, 0),
        Do(EXIT),
    ])
}
