//! The command line of `sgd`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum, value_parser};

use crate::api::DEFAULT_SOCKET;
use crate::api::peer::SocketOptions;
use crate::facts;
use crate::flowlog::FlowLogOptions;
use crate::flowlog::record::Format;
use crate::kernel::{TableSizes, TcMode};
use crate::metrics::serve::Place;
use crate::supervise::log::{self, LogFormat};
use crate::supervise::{Options, detach, panic, run};

/// Enforces security groups on the network interfaces of this host.
///
/// The policy stays in force when the daemon ends, unless --detach-on-exit is given. RUST_LOG sets what is logged.
#[derive(Debug, Parser)]
#[command(name = "sgd", version, long_version = facts::text())]
pub struct Sgd {
    /// A policy file, or a directory of *.json files; may be given more than once
    #[arg(long, required_unless_present = "detach", value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// Where the last good policy is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/sgd")]
    state_dir: PathBuf,
    /// Where sgctl reaches the daemon
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Whose members may ask the daemon: the socket belongs to this group
    ///
    /// Whoever can open the socket may read what is enforced and counted. Root may always, and change everything.
    #[arg(long, value_name = "GROUP")]
    read_group: Option<String>,
    /// Whose members may also change what is enforced
    ///
    /// With another --read-group everybody can open the socket, and sgd turns away who is in neither.
    #[arg(long, value_name = "GROUP")]
    write_group: Option<String>,
    /// The mode of the socket, octal: 660, or 666 to let everybody read
    #[arg(long, value_name = "MODE", value_parser = mode)]
    socket_mode: Option<u32>,
    /// Where maps and links are pinned; on a BPF file system
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/sgd")]
    pin_dir: PathBuf,
    /// Stop filtering when the daemon is told to end
    ///
    /// Not when it dies. Where filters are attached by clsact, the filters go and the empty clsact qdisc stays, as others
    /// may use it.
    #[arg(long)]
    detach_on_exit: bool,
    /// Take off the filter that an sgd has left in force under --pin-dir, say of which interfaces, and end
    ///
    /// No policy is read and no program loaded. An sgd that runs has to be stopped before.
    #[arg(long, conflicts_with_all = ["policy", "detach_on_exit", "replace_layout"])]
    detach: bool,
    /// Replace a filter whose maps have another layout, made by another version of sgd
    ///
    /// Without this such a filter is left in force, and sgd ends. With it the policy is put in force in new maps, and the old
    /// filter removed only then: no packet passes unfiltered. Connections are forgotten; one goes on if a rule allows what is
    /// sent next in its own direction. It changes nothing where there is no other layout.
    #[arg(long)]
    replace_layout: bool,
    /// How TC programs are attached
    #[arg(long, value_enum, default_value_t = Tc::Auto)]
    tc: Tc,
    /// How many live connections there is room for, shared out equally between the interfaces
    ///
    /// Between 1,024 and 16,777,216. Each takes about 130 bytes of the kernel's memory, and as much for IPv6, from the start.
    /// Tables that an earlier sgd has left keep their sizes: `sgctl status` shows those in force.
    #[arg(long, value_name = "N", default_value_t = TableSizes::LIVE,
          value_parser = value_parser!(u32).range(FLOWS))]
    live_flows: u32,
    /// How many half-open connections of IPv4 there is room for, likewise; half as many of IPv6
    #[arg(long, value_name = "N", default_value_t = TableSizes::HALF_OPEN,
          value_parser = value_parser!(u32).range(FLOWS))]
    half_open_flows: u32,
    /// Let Prometheus ask at http://ADDRESS:PORT/metrics, such as 127.0.0.1:9776
    ///
    /// Nobody has to say who they are to read them, so the address has to be the loopback device's.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Take an address for --metrics that others can reach
    #[arg(long, requires = "metrics")]
    metrics_not_loopback: bool,
    /// Write a record of every flow to this file: who, how much, and by which rule, or why not
    ///
    /// docs/flow-log.md says what the records are. SIGHUP makes sgd open the file anew.
    #[arg(long, value_name = "PATH")]
    flow_log: Option<PathBuf>,
    /// The form of the records
    #[arg(long, value_enum, default_value_t = Format::Json, requires = "flow_log")]
    flow_log_format: Format,
    /// Within how many seconds the packets of a flow that goes on have their record, from 5 to 600
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "flow_log",
          value_parser = value_parser!(u32).range(5..=600))]
    flow_log_interval: u32,
    /// Rotate the file when it has this many bytes; 0: others do, as logrotate
    #[arg(long, value_name = "BYTES", default_value_t = 100 << 20, requires = "flow_log",
          value_parser = max_size)]
    flow_log_max_size: u64,
    /// How many rotated files are kept: PATH.1 is the newest
    #[arg(long, value_name = "N", default_value_t = 9, requires = "flow_log",
          value_parser = value_parser!(u32).range(0..=999))]
    flow_log_keep: u32,
    /// The form of the log on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Bytes; a file of less would be rotated at every other line.
fn max_size(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(bytes) if bytes == 0 || bytes >= 4096 => Ok(bytes),
        _ => Err("a number of bytes, 4096 at least; or 0, so that sgd does not rotate the file".to_owned()),
    }
}

const FLOWS: std::ops::RangeInclusive<i64> = TableSizes::MIN as i64..=TableSizes::MAX as i64;

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600);
    mode.ok_or_else(|| {
        "expected an octal mode with which root can open the socket, such as 660 or 666".to_owned()
    })
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tc {
    /// TCX where the kernel has it, else clsact
    Auto,
    Clsact,
}

impl Sgd {
    /// Runs the daemon to its end.
    pub fn run(self) -> ExitCode {
        if self.detach {
            return detach(&self.pin_dir);
        }
        log::begin(self.log_format);
        panic::is_the_end();
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "the runtime cannot be started");
                return ExitCode::FAILURE;
            }
        };
        // As a task, not here: what it does for others it then does on their thread, and nobody waits for another one to wake up.
        let daemon = runtime.spawn(run(self.options()));
        match runtime.block_on(daemon).map_err(anyhow::Error::from).flatten() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn options(self) -> Options {
        Options {
            policy: self.policy,
            state_dir: self.state_dir,
            socket: self.socket,
            socket_options: SocketOptions {
                read_group: self.read_group,
                write_group: self.write_group,
                mode: self.socket_mode,
            },
            pin_dir: self.pin_dir,
            tc_mode: match self.tc {
                Tc::Auto => TcMode::Auto,
                Tc::Clsact => TcMode::Clsact,
            },
            sizes: TableSizes::new(self.live_flows, self.half_open_flows),
            detach_on_exit: self.detach_on_exit,
            replace_layout: self.replace_layout,
            metrics: self.metrics.map(|address| Place { address, anywhere: self.metrics_not_loopback }),
            flow_log: self.flow_log.map(|path| FlowLogOptions {
                path,
                format: self.flow_log_format,
                interval: self.flow_log_interval,
                max_size: self.flow_log_max_size,
                keep: self.flow_log_keep,
            }),
        }
    }
}

/// Says what is not filtered any more.
fn detach(pin_dir: &std::path::Path) -> ExitCode {
    match detach::detach(pin_dir) {
        Ok(devices) if devices.is_empty() => {
            println!("sgd: nothing was filtered");
            ExitCode::SUCCESS
        }
        Ok(devices) => {
            println!("sgd: detached, not filtered any more: {}", devices.join(", "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
