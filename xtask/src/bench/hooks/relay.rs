//! A hypervisor of two threads: what a namespace's stack sends goes into a tap, and what comes out of the tap to the namespace, as
//! virtio-net has it, with sums still to be written and in super-packets.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::frames::Port;

/// Milliseconds until it is looked whether it is over.
const LOOK: u16 = 100;
/// The largest packet, with its header.
const ROOM: usize = 10 + 14 + (1 << 16);

/// Until it is dropped.
#[derive(Debug)]
pub struct Relay {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    pub fn new(cable: Port, tap: Port) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (cable, tap) = (Arc::new(cable), Arc::new(tap));
        let ways = [(Arc::clone(&cable), Arc::clone(&tap)), (tap, cable)];
        let threads = ways.map(|(from, to)| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                if let Err(error) = relay(&from, &to, &stop) {
                    eprintln!("the guest behind the tap is cut off: {error:#}");
                }
            })
        });
        Self { stop, threads: threads.into() }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn relay(from: &Port, to: &Port, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; ROOM];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, LOOK).context("poll")? == 0 {
            continue;
        }
        loop {
            let length = match nix::unistd::read(from, &mut buffer) {
                Err(Errno::EAGAIN) => break,
                length => length.context("a packet")?,
            };
            // A full queue is the wire's: TCP sends it again.
            if let Some(packet) = buffer.get(..length) {
                let _ = to.send(packet);
            }
        }
    }
    Ok(())
}
