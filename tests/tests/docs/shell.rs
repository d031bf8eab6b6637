//! A root shell on the host of a site, with places of its own where sgd keeps things.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use sg_tests::{Process, Topology, binary, write_file};

/// What a page's commands find under their usual names is this shell's alone, and gone with it: `/etc` is a copy, `/run`, `/var/lib` and
/// `/var/log` are empty, `/sys/fs/bpf` is another BPF file system, and processes are in a namespace that ends with the shell.
const SETUP: &str = r#"
set -e
mkdir -p "$D/etc" "$D/home/.config/fish" "$D/work"
mount -t tmpfs tmpfs "$D/etc"
cp -a /etc/. "$D/etc"
mount --bind "$D/etc" /etc
for place in /run /var/lib /var/log; do mount -t tmpfs tmpfs "$place"; done
mount -t bpf bpf /sys/fs/bpf
export HOME="$D/home"
cd "$D/work"
set +e
"#;

/// Long enough for a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Shell {
    pub site: Topology,
    stdin: ChildStdin,
    ends: Receiver<String>,
    directory: PathBuf,
    _process: Process,
}

/// How a command ended, and all that it said, errors where they came.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub lines: Vec<String>,
}

impl Shell {
    pub fn new() -> Self {
        let site = Topology::new().unwrap();
        let directory = site.lab.directory().join("shell");
        std::fs::create_dir(&directory).unwrap();
        let mut command = site.host.command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "--norc"]);
        let programs = binary("sgctl").unwrap().parent().unwrap().to_owned();
        let path = std::env::var("PATH").unwrap();
        command
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display()))
            .env("D", &directory)
            .env("NO_COLOR", "1")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let process = Process::spawn(command).expect("unshare (util-linux) and bash: `cargo xtask setup`");
        let (stdin, stdout) = process.pipes().unwrap();
        let (sender, ends) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut shell = Self { site, stdin, ends, directory, _process: process };
        shell.succeed(SETUP);
        shell
    }

    /// Runs a command to its end.
    pub fn run(&mut self, command: &str) -> Said {
        let file = self.directory.join("said");
        let text = format!("{{ {command}\n}} >{0} 2>&1 </dev/null; echo \"ended $?\"\n", file.display());
        self.stdin.write_all(text.as_bytes()).unwrap();
        let end = self.ends.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            panic!("`{command}`: {error}; it said: {:?}", std::fs::read_to_string(&file))
        });
        let code = end.strip_prefix("ended ").and_then(|code| code.parse().ok());
        let said = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        Said {
            code: code.unwrap_or_else(|| panic!("`{command}`: {end}")),
            lines: said.lines().map(str::to_owned).collect(),
        }
    }

    pub fn succeed(&mut self, command: &str) {
        let said = self.run(command);
        assert_eq!(said.code, 0, "`{command}`: {}", said.lines.join("\n"));
    }

    /// A file in the directory where commands run, or anywhere else.
    pub fn put(&mut self, path: &str, text: &str) {
        let own = write_file(&self.directory, "put", text).unwrap();
        self.succeed(&format!("mkdir -p $(dirname {path}) && cp {} {path}", own.display()));
    }

    /// Runs `sgd …` behind the shell's back until the next one, and waits until its policy is in force.
    pub fn start(&mut self, sgd: &str) {
        self.stop();
        self.succeed("mkdir -p /run/sgd /var/lib/sgd /var/log/sgd");
        self.succeed(&format!("{} >sgd.log 2>&1 &\nsgd=$!", sgd.split('#').next().unwrap().trim_end()));
        let wait = "for turn in $(seq 300); do grep -q ' ready' sgd.log && break; kill -0 $sgd 2>/dev/null || break; sleep 0.1; done; \
                    grep -q ' ready' sgd.log || { cat sgd.log; false; }";
        self.succeed(wait);
    }

    pub fn stop(&mut self) {
        self.succeed("[ -z \"$sgd\" ] || { kill $sgd; wait $sgd; sgd=; }");
    }
}
