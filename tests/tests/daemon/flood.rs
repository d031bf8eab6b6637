//! A flood: datagrams as fast as they go, before, while and after something happens.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use sg_tests::{Netns, patience};

use crate::world::wait;

/// Where it goes; no policy of these tests allows it.
pub const PORT: u16 = 9999;

pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// From an address in a namespace; under way when this returns.
    pub fn start(from: &Netns, source: IpAddr, to: &[IpAddr]) -> Self {
        let (stop, sent): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let to: Vec<SocketAddr> = to.iter().map(|&address| (address, PORT).into()).collect();
        let (netns, stopped, counted) = (from.clone(), Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let send = || {
                let socket = UdpSocket::bind((source, 0)).unwrap();
                while !stopped.load(Ordering::Relaxed) {
                    for &to in &to {
                        // There may be no way to it yet.
                        if socket.send_to(&[0; 18], to).is_ok() {
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            };
            netns.run(send).unwrap();
        });
        let flood = Self { stop, sent, thread: Some(thread) };
        flood.more(1);
        flood
    }

    /// Waits until this many further packets are sent.
    pub fn more(&self, packets: u64) {
        let goal = self.sent() + packets;
        wait("the flood", || self.sent() >= goal);
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it, and waits for what is under way.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        std::thread::sleep(patience::DENIED / 4);
        self.sent()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
