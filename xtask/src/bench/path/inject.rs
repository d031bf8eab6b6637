//! Frames put where a driver puts them, one after the other without a pause, and what becomes of each paid for by the one thread that
//! does so: routing or bridging, the filter, the cable, and a program at the guest's end that counts the frame and drops it.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Result, ensure};
use nix::net::if_::if_nametoindex;
use sg_tests::bpf::{self, EXIT, Kind, Sink, instruction};

use super::super::filters::{DENIED_PORT, DEVICE, GUEST, TCP_PORT};
use super::site::{GUEST_MAC, OUTSIDE_MAC, Site, UPLINK};

/// As many remotes as the last two bytes of an address tell apart.
pub const FLOWS: u32 = 1 << 16;
/// Frames of one figure and round; of more connections, as many as those.
const FRAMES: u32 = 20_000;
/// New flows of one: with one rule a line, each takes as long as hundreds of others.
const NEW_FRAMES: u32 = 2_000;
/// Connections that are begun before the first is answered: fewer than fit into anybody's share.
const AT_ONCE: u32 = 4096;

const SYN: u8 = 2;
const ACK: u8 = 16;
/// The remotes' first address; of a frame from outside, its last two bytes are at one place, and of one to there at another.
const REMOTES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const PORT: u16 = 20_000;

/// The way of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

pub struct Injector<'a> {
    site: &'a Site,
    sink: Sink,
    /// Programs on the ports, without which a device receives no frames of a test run.
    _ports: [OwnedFd; 2],
    /// The port of the next new flows.
    next_port: u16,
}

/// A site passes and drops what it must; one without rules passes both.
pub fn check(site: &Site, denies: bool) -> Result<()> {
    let injector = Injector::new(site, 0)?;
    for (what, port, passes) in [("allowed", TCP_PORT, true), ("denied", DENIED_PORT, !denies)] {
        let before = injector.sink.count()?.packets;
        injector.send(Way::In, SYN, PORT - 1, port, Order::counting(0, 16), 16)?;
        let came = injector.sink.count()?.packets - before;
        ensure!(came == if passes { 16 } else { 0 }, "of 16 packets that are {what}, {came} came through");
    }
    Ok(())
}

impl<'a> Injector<'a> {
    /// Opens that many connections.
    pub fn new(site: &'a Site, flows: u32) -> Result<Self> {
        let [up, down] = [UPLINK, DEVICE].map(|device| {
            site.host.run(|| bpf::attach(&bpf::empty(Kind::Xdp)?, Kind::Xdp, if_nametoindex(device)?))?
        });
        let sink = site.guest.run(|| Sink::new(if_nametoindex("eth0")?))??;
        let injector = Self { site, sink, _ports: [up?, down?], next_port: PORT + 1 };
        for first in (0..flows).step_by(AT_ONCE as usize) {
            let order = Order::counting(first, flows);
            let count = AT_ONCE.min(flows);
            injector.send(Way::In, SYN, PORT, TCP_PORT, order, count)?;
            injector.send(Way::Out, SYN | ACK, PORT, TCP_PORT, order, count)?;
            injector.send(Way::In, ACK, PORT, TCP_PORT, order, count)?;
        }
        Ok(injector)
    }

    /// Nanoseconds for each packet of so many connections, in random order. Of many, each has a packet before, which is not timed: they
    /// go on, and the other contenders, who have had their turns since, have taken the caches meanwhile.
    pub fn established(&self, flows: u32) -> Result<f64> {
        let order = Order::shuffled(flows);
        if flows > FRAMES {
            self.timed(ACK, PORT, order, flows)?;
        }
        self.timed(ACK, PORT, order, flows.max(FRAMES))
    }

    /// Nanoseconds for each packet that begins a connection.
    pub fn new_flows(&mut self) -> Result<f64> {
        self.next_port += 1;
        self.timed(SYN, self.next_port, Order::shuffled(FLOWS), NEW_FRAMES)
    }

    /// Every frame has to arrive.
    fn timed(&self, flags: u8, port: u16, order: Order, count: u32) -> Result<f64> {
        let before = self.sink.count()?.packets;
        let nanoseconds = self.send(Way::In, flags, port, TCP_PORT, order, count)?;
        let came = self.sink.count()?.packets - before;
        ensure!(came == u64::from(count), "{came} of {count} packets came through");
        Ok(nanoseconds)
    }

    /// CPU time for each frame, in nanoseconds.
    fn send(&self, way: Way, flags: u8, remote: u16, local: u16, order: Order, count: u32) -> Result<f64> {
        let frame = frame(self.site, way, flags, remote, local)?;
        let device = if way == Way::In { UPLINK } else { DEVICE };
        self.site.host.run(|| {
            let state = bpf::map(bpf::ARRAY, size_of::<Order>() as u32)?;
            bpf::set(&state, &order.bytes())?;
            let program = bpf::load(Kind::Xdp, &instructions(way, &frame, &state))?;
            let ifindex = if_nametoindex(device)?;
            let before = thread_time()?;
            bpf::receive(&program, ifindex, &frame, count)?;
            Ok((thread_time()? - before) / f64::from(count))
        })?
    }
}

/// Nanoseconds of this thread. What soft interrupts do behind it while it waits for nothing is its own.
pub fn thread_time() -> Result<f64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}

/// Which flow comes next: the number times the factor, plus the step, of so many.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Order {
    number: u32,
    mask: u32,
    factor: u32,
    step: u32,
}

impl Order {
    fn counting(first: u32, flows: u32) -> Self {
        Self { number: first.wrapping_sub(1), mask: flows - 1, factor: 1, step: 1 }
    }

    /// Numerical Recipes' generator: with a power of two, all come once before one comes again.
    fn shuffled(flows: u32) -> Self {
        Self { number: 1, mask: flows - 1, factor: 1_664_525, step: 1_013_904_223 }
    }

    fn bytes(self) -> Vec<u8> {
        [self.number, self.mask, self.factor, self.step].into_iter().flat_map(u32::to_ne_bytes).collect()
    }
}

/// Where things are in a frame of TCP over IPv4.
const ID: usize = 18;
const HOPS: usize = 22;
const SOURCE: usize = 26;
const DESTINATION: usize = 30;
const TCP: usize = 34;
const URGENT: usize = TCP + 18;
const LENGTH: usize = TCP + 20;

/// Between the first remote's `remote` port and the guest's `local` one. Identification and urgent pointer hold the complement of the
/// address's last bytes, so that all checksums stay right when both change; nobody looks at a pointer without its flag.
fn frame(site: &Site, way: Way, flags: u8, remote: u16, local: u16) -> Result<Vec<u8>> {
    let guest: Ipv4Addr = GUEST.parse()?;
    let (macs, addresses, ports) = match way {
        Way::In => ([site.towards_guest, OUTSIDE_MAC], [REMOTES, guest], [remote, local]),
        Way::Out => ([site.towards_outside, GUEST_MAC], [guest, REMOTES], [local, remote]),
    };
    let mut frame = Vec::with_capacity(60);
    for mac in macs {
        for byte in mac.split(':') {
            frame.push(u8::from_str_radix(byte, 16)?);
        }
    }
    frame.extend([0x08, 0, 0x45, 0, 0, 40, 0xff, 0xff, 0, 0, 64, 6, 0, 0]);
    addresses.iter().for_each(|address| frame.extend(address.octets()));
    ports.iter().for_each(|port| frame.extend(port.to_be_bytes()));
    let first = 1000u32;
    let sequence = if flags & SYN == 0 { first + 1 } else { first };
    frame.extend(sequence.to_be_bytes());
    frame.extend(if flags & ACK == 0 { 0 } else { first + 1 }.to_be_bytes());
    frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let (header, segment) = frame.split_at(TCP);
    let header_sum = checksum(header.get(14..).unwrap_or_default(), 0);
    // The pseudo-header: both addresses, the protocol and the length.
    let pseudo = 6 + 20;
    let segment_sum = checksum(&[header.get(SOURCE..).unwrap_or_default(), segment].concat(), pseudo);
    put(&mut frame, HOPS + 2, header_sum);
    put(&mut frame, TCP + 16, segment_sum);
    frame.resize(60, 0);
    Ok(frame)
}

fn put(frame: &mut [u8], at: usize, word: u16) {
    if let Some(place) = frame.get_mut(at..at + 2) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

/// RFC 1071, of an even number of bytes.
pub fn checksum(bytes: &[u8], initial: u32) -> u16 {
    let words = bytes.chunks_exact(2).filter_map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?)));
    let mut sum = words.fold(initial, |sum, word| sum + u32::from(word));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Makes the frame the next flow's, and again what it was before the host forwarded it the last time: the kernel uses its memory
/// again. Codes are those of RFC 9669.
fn instructions(way: Way, frame: &[u8], order: &OwnedFd) -> Vec<u64> {
    let i = instruction;
    let address = if way == Way::In { SOURCE } else { DESTINATION } as i16 + 2;
    let mut program = vec![
        i(0x61, 7, 1, 0, 0),
        i(0x61, 8, 1, 4, 0),
        i(0xbf, 0, 7, 0, 0),
        i(0x07, 0, 0, 0, LENGTH as i32),
        0,
    ];
    let check = program.len() - 1;
    for at in [0, 4, 8, HOPS] {
        let word = frame.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, i32::from_ne_bytes);
        program.push(i(0x62, 7, 0, at as i16, word));
    }
    program.extend([
        i(0x18, 9, 2, 0, order.as_raw_fd()),
        0,
        i(0x61, 1, 9, 0, 0),
        i(0x61, 2, 9, 8, 0),
        i(0x2c, 1, 2, 0, 0),
        i(0x61, 2, 9, 12, 0),
        i(0x0c, 1, 2, 0, 0),
        i(0x61, 2, 9, 4, 0),
        i(0x5c, 1, 2, 0, 0),
        i(0x63, 9, 1, 0, 0),
        i(0xdc, 1, 0, 0, 16),
        i(0x6b, 7, 1, address, 0),
        i(0xa4, 1, 0, 0, 0xffff),
        i(0x6b, 7, 1, ID as i16, 0),
        i(0x6b, 7, 1, URGENT as i16, 0),
        // XDP_PASS
        i(0xb7, 0, 0, 0, 2),
        EXIT,
        // XDP_DROP: never, as every frame is long enough.
        i(0xb7, 0, 0, 0, 1),
        EXIT,
    ]);
    let to_the_end = (program.len() - 2 - check - 1) as i16;
    if let Some(check) = program.get_mut(check) {
        *check = i(0x2d, 0, 8, to_the_end, 0);
    }
    program
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn a_checksum_stays_right_when_a_word_and_its_complement_change() {
        let sum = |word: u16| {
            checksum(&[&word.to_be_bytes()[..], &(!word).to_be_bytes(), &[1, 2, 3, 4]].concat(), 0)
        };
        assert_eq!(sum(0), sum(0x1234));
        assert_eq!(
            checksum(
                &[0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7],
                0
            ),
            0xb861
        );
    }
}
