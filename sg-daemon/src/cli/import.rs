//! `sgctl import`: policy files of what a cloud says about its security groups.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::output::{color, complain, counted, print};
use super::{NO, Outcome, TROUBLE};
use crate::carry::{self, File, Input, Options, Progress, ReadError, Report, aws, kakao, neutron};
use crate::policy;
use crate::policy::diagnostic::printable;
use crate::policy::render::render;

/// Make policy files of a cloud's security groups.
///
/// What cannot be carried is listed, one line each, and then nothing is written unless --allow-loss says so. The files are
/// checked as sgd would before they are written.
/// Exit code: 0 written, 1 not written (something would be lost, or the policy would be refused), 2 a file cannot be read
/// or is something else.
#[derive(Debug, Args)]
pub struct Import {
    #[command(subcommand)]
    cloud: Cloud,
}

#[derive(Debug, Subcommand)]
enum Cloud {
    Aws(Aws),
    Neutron(Neutron),
    Kakao(Kakao),
}

/// From `aws ec2 describe-security-groups` and `describe-network-interfaces`.
#[derive(Debug, Args)]
struct Aws {
    #[command(flatten)]
    common: Common,
    /// The networks of a prefix list, from `aws ec2 get-managed-prefix-list-entries`; may be given more than once
    #[arg(long, value_name = "pl-ID=FILE")]
    prefix_list: Vec<String>,
}

/// From OpenStack Neutron's `/v2.0/security-groups` and `/v2.0/ports` (and `/v2.0/address-groups`).
#[derive(Debug, Args)]
struct Neutron {
    #[command(flatten)]
    common: Common,
    /// This host's name in Neutron ("binding:host_id"): its ports become interfaces, called as nova calls them
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
}

/// From KakaoCloud's VPC API: security groups and network interfaces.
#[derive(Debug, Args)]
struct Kakao {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// What the cloud has answered, in JSON; "-" is standard input. All files together are one cloud
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A file, a directory (one file a VPC), or "-" for standard output
    #[arg(long, value_name = "PATH", default_value = "-")]
    out: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
    /// Write what can be carried although something else cannot
    #[arg(long)]
    allow_loss: bool,
    /// Which device an interface of the cloud is here: "eni-1=tap0,eni-2=tap1", or a file of such lines or of JSON
    /// {"eni-1": "tap0"}. All others are members on other hosts
    #[arg(long, value_name = "FILE|ID=DEVICE")]
    interface_map: Vec<String>,
    /// The project, in place of the cloud's
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// The VPC, in place of the cloud's
    #[arg(long, value_name = "NAME")]
    vpc: Option<String>,
    /// Print what was lost, noted and written as JSON; needs --out
    #[arg(long)]
    json: bool,
}

type Carry = fn(&[Input], &Options, Progress<'_>) -> Result<(Vec<File>, Report), ReadError>;

impl Import {
    pub(super) fn run(self) -> Outcome {
        match self.cloud {
            Cloud::Aws(Aws { common, prefix_list }) => {
                let mut options = common.options()?;
                for given in prefix_list {
                    let (id, path) = given
                        .split_once('=')
                        .ok_or("--prefix-list is written pl-ID=FILE, such as pl-63a5400a=s3.json")?;
                    let entries = aws::prefix_list(&input(Path::new(path))?);
                    let entries = entries.map_err(|error| printable(&error.to_string()))?;
                    options.prefix_lists.insert(id.to_owned(), entries);
                }
                common.run(aws::import, &options)
            }
            Cloud::Neutron(Neutron { common, host }) => {
                let options = Options { host, ..common.options()? };
                common.run(neutron::import, &options)
            }
            Cloud::Kakao(Kakao { common }) => {
                let options = common.options()?;
                common.run(kakao::import, &options)
            }
        }
    }
}

impl Common {
    fn options(&self) -> Result<Options, String> {
        let mut devices = BTreeMap::new();
        for given in &self.interface_map {
            devices.extend(interface_map(given)?);
        }
        Ok(Options { devices, project: self.project.clone(), vpc: self.vpc.clone(), ..Options::default() })
    }

    fn run(&self, carry: Carry, options: &Options) -> Outcome {
        let to_stdout = self.out == Path::new("-");
        if self.json && to_stdout {
            return Err("--json needs --out FILE or --out DIR, as the policy goes to standard output".into());
        }
        let inputs: Vec<Input> = self.files.iter().map(|path| input(path)).collect::<Result<_, _>>()?;
        let bar = bar();
        let advance = |done: usize, total: usize| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let carried = carry(&inputs, options, &advance);
        bar.set_message("checking");
        let (files, report) = match carried {
            Ok(carried) => carried,
            Err(error) => {
                bar.finish_and_clear();
                return Err(printable(&error.to_string()).into());
            }
        };
        let texts: Vec<(PathBuf, String)> =
            names(&files, &self.out).into_iter().zip(files.iter().map(carry::text::text)).collect();
        let checked =
            policy::load_bytes(texts.iter().map(|(path, text)| (path.clone(), text.clone().into_bytes())));
        bar.finish_and_clear();
        tell(&report);
        if files.is_empty() {
            complain(
                "there is no security group in the input; give the document that lists them (docs/import.md has the commands); nothing was written",
            );
            return Ok(ExitCode::from(NO));
        }
        let loaded = match checked {
            Ok(loaded) => loaded,
            Err(error) => {
                for finding in &error.diagnostics {
                    eprint_text(&render(finding, color()));
                }
                complain(
                    "sgd would refuse the policy that comes of it, see above; correct the input, or report it; nothing was written",
                );
                return Ok(ExitCode::from(NO));
            }
        };
        if !report.losses.is_empty() && !self.allow_loss {
            complain(&format!(
                "{}, see above; nothing was written. --allow-loss writes the rest",
                cannot(&report)
            ));
            return Ok(ExitCode::from(NO));
        }
        if to_stdout {
            let [(_, text)] = &texts[..] else {
                return Err("there are several VPCs, a file for each: give a directory with --out DIR".into());
            };
            print(text)?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Err(why) = write(&texts, self.force) {
            complain(&why);
            return Ok(ExitCode::from(TROUBLE));
        }
        let written: Vec<String> = texts.iter().map(|(path, _)| path.display().to_string()).collect();
        if self.json {
            let answer = serde_json::json!({ "written": written, "counts": loaded.counts, "losses": report.losses, "notes": report.notes });
            print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
        } else {
            let counts = loaded.counts;
            let parts = [
                counted(counts.groups, "group"),
                counted(counts.rules, "rule"),
                counted(counts.interfaces, "interface"),
                counted(counts.peers, "peer"),
                counted(report.losses.len(), "loss").replace("losss", "losses"),
            ];
            print(&format!("{}: {}\n", written.join(", "), parts.join(", ")))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Losses and notes on standard error, one line each.
pub(super) fn tell(report: &Report) {
    for note in &report.notes {
        eprint_text(&format!("note: {}\n", printable(note)));
    }
    for loss in &report.losses {
        let place: Vec<&str> =
            [loss.file.as_str(), loss.path.as_str()].into_iter().filter(|part| !part.is_empty()).collect();
        eprint_text(&format!("loss: {}\n", printable(&format!("{}: {}", place.join(": "), loss.why))));
    }
}

pub(super) fn cannot(report: &Report) -> String {
    match report.losses.len() {
        1 => "one thing cannot be carried".to_owned(),
        count => format!("{count} things cannot be carried"),
    }
}

/// If standard error is gone there is nobody to tell.
pub(super) fn eprint_text(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// On a terminal only: indicatif hides it elsewhere.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {pos}/{len} groups [{wide_bar}] {eta}") {
        bar.set_style(style);
    }
    bar.set_message("translating");
    bar
}

fn input(path: &Path) -> Result<Input, String> {
    let failed = |error: io::Error| {
        format!("{}: {error}; give a file that can be read, or - for standard input", path.display())
    };
    let mut text = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut text).map_err(failed)?;
        return Ok(Input { name: "standard input".to_owned(), text });
    }
    fs::File::open(path).and_then(|mut file| file.read_to_end(&mut text)).map_err(failed)?;
    Ok(Input { name: path.display().to_string(), text })
}

fn interface_map(given: &str) -> Result<BTreeMap<String, String>, String> {
    let pairs = |text: &str, separators: &[char], from: &str| {
        let mut map = BTreeMap::new();
        for line in
            text.split(separators).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let (id, device) = line
                .split_once('=')
                .ok_or_else(|| format!("{from}: {line:?} is not written ID=DEVICE, such as eni-0a1b=tap0"))?;
            map.insert(id.trim().to_owned(), device.trim().to_owned());
        }
        Ok(map)
    };
    if given.contains('=') {
        return pairs(given, &[','], "--interface-map");
    }
    let text = fs::read_to_string(given)
        .map_err(|error| format!("{given}: {error}; give ID=DEVICE, or a file with such lines"))?;
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(&text)
            .map_err(|error| format!("{given}: {error}; expected {{\"eni-0a1b\": \"tap0\"}}"));
    }
    pairs(&text, &['\n', ','], given)
}

/// Where each file goes: a VPC's name makes that of its file.
fn names(files: &[File], out: &Path) -> Vec<PathBuf> {
    let directory = out.is_dir() || files.len() > 1 || out.as_os_str().to_string_lossy().ends_with('/');
    if out == Path::new("-") || !directory {
        return files.iter().map(|_| out.to_owned()).collect();
    }
    let plain = |text: &str| -> String {
        let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
        text.chars().take(100).map(|c| if good(c) { c } else { '-' }).collect()
    };
    let mut names: Vec<PathBuf> = Vec::new();
    for file in files {
        let twice = files.iter().filter(|other| plain(&other.vpc) == plain(&file.vpc)).count() > 1;
        let stem =
            if twice { format!("{}-{}", plain(&file.project), plain(&file.vpc)) } else { plain(&file.vpc) };
        let mut path = out.join(format!("{stem}.json"));
        let mut number = 2;
        while names.contains(&path) {
            path = out.join(format!("{stem}-{number}.json"));
            number += 1;
        }
        names.push(path);
    }
    names
}

/// All of the files appear whole, or none does: they take their names when every one of them is on the disk.
pub(super) fn write(files: &[(PathBuf, String)], force: bool) -> Result<(), String> {
    let failed = |path: &Path, error: &io::Error| {
        format!("{}: {error}; make room there, or name another place with --out", path.display())
    };
    let mut ready = Vec::with_capacity(files.len());
    for (path, text) in files {
        if !force && fs::symlink_metadata(path).is_ok() {
            return Err(format!("{} is there already; --force replaces it", path.display()));
        }
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
        // As every new file; tempfile's own are the owner's alone.
        let mut file = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(directory)
            .map_err(|error| failed(path, &error))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(|error| failed(path, &error))?;
        ready.push((path, file));
    }
    for (path, file) in ready {
        let result = if force { file.persist(path) } else { file.persist_noclobber(path) };
        result.map_err(|error| failed(path, &error.error))?;
    }
    Ok(())
}
