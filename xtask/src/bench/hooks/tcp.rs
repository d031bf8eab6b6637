//! What decides: a guest that sends and receives in bulk, and asks small questions meanwhile, with sockets of real TCP.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::super::filters::{TCP_PORT, UDP_PORT};
use super::super::path::{CLIENT, cpu};
use super::site::Site;

const PATIENCE: Duration = Duration::from_secs(20);
/// For an answer, until it is asked again: queues of devices may be full.
const AGAIN: Duration = Duration::from_millis(200);
/// What a program writes at once.
const BLOCK: usize = 1 << 17;
/// Questions for each block that is sent.
const QUESTIONS: u32 = 4;

/// Milliseconds of CPU for each 10⁹ bytes of which half go each way. The work is the same every time: so many blocks each way, and
/// questions. CPU time is that of all threads that take part, whose own the soft interrupts are that
/// run behind them, and that of the kernel's threads for those that do not (ksoftirqd, which may work for others too).
pub fn bulk(site: &Site, blocks: u32) -> Result<f64> {
    let listen = || {
        Ok::<_, std::io::Error>((
            TcpListener::bind((CLIENT, TCP_PORT))?,
            UdpSocket::bind((CLIENT, UDP_PORT))?,
        ))
    };
    let (listener, answers) = site.outside.run(listen)??;
    let connect = || -> Result<(TcpStream, TcpStream)> {
        let ours = site.guest.run(|| TcpStream::connect((CLIENT, TCP_PORT)))??;
        let (theirs, _) = listener.accept()?;
        for stream in [&ours, &theirs] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        Ok((ours, theirs))
    };
    let ((mut up, mut up_end), (mut down_end, mut down)) = (connect()?, connect()?);
    let asks = site.guest.run(|| UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)))??;
    asks.connect((CLIENT, UDP_PORT))?;
    asks.set_read_timeout(Some(AGAIN))?;
    answers.set_read_timeout(Some(AGAIN))?;
    let stop = AtomicBool::new(false);
    let bytes = blocks as usize * BLOCK;
    let before = all_cpu()?;
    std::thread::scope(|scope| -> Result<()> {
        let answering = scope.spawn(|| answer(&answers, &stop));
        let threads = [
            scope.spawn(move || write(&mut up, blocks)),
            scope.spawn(move || read(&mut up_end, bytes)),
            scope.spawn(move || write(&mut down, blocks)),
            scope.spawn(move || read(&mut down_end, bytes)),
            scope.spawn(move || ask(&asks, blocks * QUESTIONS)),
        ];
        let results: Vec<Result<()>> = threads.into_iter().map(join).collect();
        stop.store(true, Ordering::Relaxed);
        join(answering)?;
        results.into_iter().collect()
    })?;
    let used = all_cpu()? - before;
    Ok(used * 1e3 / (2.0 * bytes as f64 / 1e9))
}

fn join(thread: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn write(stream: &mut TcpStream, blocks: u32) -> Result<()> {
    let block = vec![0; BLOCK];
    (0..blocks).try_for_each(|_| stream.write_all(&block)).context("bulk TCP")
}

fn read(stream: &mut TcpStream, mut bytes: usize) -> Result<()> {
    let mut buffer = vec![0; 2 * BLOCK];
    while bytes > 0 {
        let length = stream.read(&mut buffer).context("bulk TCP")?;
        ensure!(length > 0, "a connection has ended");
        bytes = bytes.saturating_sub(length);
    }
    Ok(())
}

fn ask(socket: &UdpSocket, questions: u32) -> Result<()> {
    let began = Instant::now();
    for _ in 0..questions {
        loop {
            socket.send(b"?").context("a question")?;
            match socket.recv(&mut [0; 8]) {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("an answer"),
            }
            ensure!(began.elapsed() < PATIENCE, "questions get no answers");
        }
    }
    Ok(())
}

fn answer(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut [0; 8]) {
            Ok((_, from)) => {
                socket.send_to(b"!", from).context("an answer")?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("a question"),
        }
    }
    Ok(())
}

/// Seconds of CPU of this process and of the kernel's threads for soft interrupts.
fn all_cpu() -> Result<f64> {
    let mut nanoseconds = 0u64;
    for entry in fs::read_dir("/proc").context("/proc")? {
        let path = entry?.path();
        if !fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/")) {
            continue;
        }
        let text = fs::read_to_string(path.join("schedstat")).context("schedstat of ksoftirqd")?;
        let own = text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
        nanoseconds += own.context("schedstat of ksoftirqd")?;
    }
    Ok(cpu()? + nanoseconds as f64 / 1e9)
}
