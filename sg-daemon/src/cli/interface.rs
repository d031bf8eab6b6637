//! `sgctl interface`: the groups of interfaces; and `wait`, which lets a hypervisor's hook wait until a guest's device is
//! filtered.

use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;

use super::edit::{How, Scope, Which, list, place};
use super::output::{complain, print, table};
use super::times::duration;
use super::{NO, Outcome, names};
use crate::api::client::{ClientError, call, escaped};
use crate::api::types::{InterfaceState, Readiness};
use crate::policy::edit::Edit;
use crate::policy::find;
use crate::policy::model::Model;
use crate::policy::view::{self, EnforcementView, InterfaceView, KindView, RoleView};

const POLL: Duration = Duration::from_millis(50);

/// Attach groups to interfaces, show interfaces and wait for them.
#[derive(Debug, Args)]
pub struct Interface {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Attach(Attachment),
    Detach(Detachment),
    Show(Show),
    List(List),
    Wait(Wait),
}

/// Attach groups to an interface. Those that are attached already stay so.
///
/// Exit code: 0 done, 1 refused (no such interface or group, a quota), 2 trouble (files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Attachment {
    /// The interface's name on this host
    #[arg(value_name = "NAME", add = names::interfaces())]
    name: String,
    #[arg(required = true, value_name = "GROUP", add = names::groups())]
    groups: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Detach groups from an interface. The last one stays, except on bare metal.
///
/// Exit code: 0 done, 1 refused, 2 trouble (files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Detachment {
    /// The interface's name on this host
    #[arg(value_name = "NAME", add = names::interfaces())]
    name: String,
    #[arg(required = true, value_name = "GROUP", add = names::groups())]
    groups: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Show an interface as the policy has it.
///
/// Exit code: 0 done, 1 the policy has no such interface, 2 trouble (files, sgd cannot be reached).
#[derive(Debug, Args)]
struct Show {
    /// The interface's name on this host
    #[arg(value_name = "NAME", add = names::interfaces())]
    name: String,
    #[command(flatten)]
    which: Which,
}

/// List the interfaces of the policy.
///
/// Exit code: 0 done, 1 no policy is in force, or the files have faults, 2 trouble.
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    which: Which,
}

impl Interface {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        match self.verb {
            Verb::Attach(Attachment { name, groups, how }) => {
                let attach = |group| Edit::InterfaceAttach { interface: name.clone(), group };
                how.edit(socket, groups.into_iter().map(attach).collect())
            }
            Verb::Detach(Detachment { name, groups, how }) => {
                let detach = |group| Edit::InterfaceDetach { interface: name.clone(), group };
                how.edit(socket, groups.into_iter().map(detach).collect())
            }
            Verb::Show(verb) => verb.run(socket),
            Verb::List(verb) => verb.run(socket),
            Verb::Wait(verb) => verb.run(socket),
        }
    }
}

impl Show {
    fn run(self, socket: &Path) -> Outcome {
        let Self { name, which } = self;
        let all = match which.get(socket, "/v1/interfaces", |model| Ok(view::interfaces(model)))? {
            Ok(all) => all,
            Err(code) => return Ok(code),
        };
        let Some(interface) = all.iter().find(|interface| interface.name == name) else {
            let hint = find::hint(&name, all.iter().map(|interface| interface.name.as_str()));
            complain(&format!("the policy has no interface {name:?}{hint} (`sgctl interface list`)"));
            return Ok(ExitCode::from(NO));
        };
        which.tell(interface, text)
    }
}

fn text(interface: &InterfaceView) -> String {
    let InterfaceView { name, instance, project, vpc, mac, addresses, .. } = interface;
    let place = place(Some(&interface.file), Some(interface.line));
    let mut text = format!("interface {name} of {project}/{vpc}  ({place})\n");
    if !instance.is_empty() {
        text += &format!("  instance: {instance}\n");
    }
    if interface.kind == KindView::BareMetal {
        text += "  bare metal: rules are not enforced\n";
    }
    if interface.role == RoleView::Host {
        text += "  the host's own\n";
    }
    if let Some(mac) = mac {
        text += &format!("  mac: {mac}\n");
    }
    text += &format!("  addresses: {}\n", list(addresses));
    if !interface.allowed_addresses.is_empty() {
        text += &format!("  allowed addresses: {}\n", list(&interface.allowed_addresses));
    }
    if interface.fast_path {
        text += "  fast path: asked for (`sgctl status` says what has become of it)\n";
    }
    if interface.enforcement == EnforcementView::Audit {
        text += "  AUDIT (NOTHING IS DROPPED)\n";
    }
    text += &format!("  groups: {}\n", list(&interface.security_groups));
    text
}

impl List {
    fn run(self, socket: &Path) -> Outcome {
        let Self { scope, which } = self;
        let path = format!("/v1/interfaces{}", scope.query());
        let of_files = |model: &Model| Ok(view::in_scope(view::interfaces(model), scope.find()));
        match which.get(socket, &path, of_files)? {
            Ok(interfaces) => which.tell(&interfaces, |interfaces| lines(interfaces)),
            Err(code) => Ok(code),
        }
    }
}

fn lines(interfaces: &[InterfaceView]) -> String {
    let title = ["INTERFACE", "INSTANCE", "VPC", "ADDRESSES", "GROUPS", "PLACE"].map(str::to_owned).to_vec();
    let row = |interface: &InterfaceView| {
        let instance = if interface.instance.is_empty() { "-" } else { &interface.instance };
        vec![
            interface.name.clone(),
            instance.to_owned(),
            format!("{}/{}", interface.project, interface.vpc),
            list(&interface.addresses),
            list(&interface.security_groups),
            place(Some(&interface.file), Some(interface.line)),
        ]
    };
    table(&[title].into_iter().chain(interfaces.iter().map(row)).collect::<Vec<_>>())
}

/// Wait until an interface is filtered.
///
/// For the hook of a hypervisor: a device that is made, waited for and only then set up never has an unfiltered packet.
/// A daemon that is just being started is waited for too. Exit code: 0 it is, 1 not in time, with what is missing on standard
/// error, 2 sgd cannot be reached.
#[derive(Debug, Args)]
struct Wait {
    /// The interface's name on this host
    #[arg(value_name = "NAME", add = names::interfaces())]
    name: String,
    /// How long to wait: 30s, 500ms, 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// What to wait for
    #[arg(long, value_enum, default_value_t = Wanted::Enforced)]
    state: Wanted,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    /// The policy in force names it, and judges its packets
    Enforced,
    /// It is filtered: by its policy, or closed as it is managed and in no policy
    Closed,
}

impl Wait {
    fn run(self, socket: &Path) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let path = format!("/v1/interfaces/{}", escaped(&self.name));
        loop {
            let answer = call::<(), Readiness>(socket, Method::GET, &path, None);
            let late = Instant::now() + POLL > deadline;
            match answer {
                Ok(answer) if self.is_met(&answer) => {
                    print(&format!("{}: {}\n", self.name, answer.state.text()))?;
                    return Ok(ExitCode::SUCCESS);
                }
                Ok(answer) if late => {
                    let timeout = self.timeout;
                    complain(&format!("{} after {timeout:?}", self.missing(&answer)));
                    return Ok(ExitCode::from(NO));
                }
                Err(error) if late || !matches!(error, ClientError::Connect { .. }) => {
                    return Err(error.into());
                }
                _ => sleep(POLL),
            }
        }
    }

    fn is_met(&self, answer: &Readiness) -> bool {
        match (self.state, answer.state) {
            (_, InterfaceState::Enforced) => true,
            (Wanted::Closed, state) => state == InterfaceState::Closed,
            (Wanted::Enforced, _) => false,
        }
    }

    /// What the interface lacks.
    fn missing(&self, answer: &Readiness) -> String {
        let name = &self.name;
        let why = answer.why.as_ref().map_or_else(String::new, |why| format!(", as {why}"));
        let mut text = match answer.state {
            InterfaceState::Absent if answer.named => {
                format!("there is no device {name}; a policy for it is in force: make the device")
            }
            InterfaceState::Absent => format!(
                "there is no device {name}, and no policy in force names it; make the device, and name it in the policy"
            ),
            InterfaceState::Closed if answer.named => {
                format!("{name} is closed{why}; `sgctl status` has more")
            }
            InterfaceState::Closed => {
                format!(
                    "{name} is closed: it is managed, and no policy in force names it; name it in the policy"
                )
            }
            InterfaceState::NotFiltered if answer.named => {
                format!("{name} is not filtered{why}; `sgctl status` has more")
            }
            InterfaceState::NotFiltered => {
                format!(
                    "{name} is not filtered: no policy in force names it, and no managed pattern matches it; name it in the policy, or in settings.managed"
                )
            }
            state => format!("{name}: {}", state.text()),
        };
        if let Some(refused) = &answer.refused {
            text += &format!("; the newest policy was refused: {refused}");
        }
        text
    }
}
