//! `sgctl group`: edits to the groups of a policy file.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output::{color, complain, print};
use super::{NO, Outcome, TROUBLE, names};
use crate::policy::edit::{self, CopyError, CopyRequest};
use crate::policy::render::render;

/// Edit the security groups of a policy.
#[derive(Debug, Args)]
pub struct Group {
    #[command(subcommand)]
    verb: GroupVerb,
}

#[derive(Debug, Subcommand)]
enum GroupVerb {
    Copy(Copy),
}

/// Copy a group: the same rules under one or more new names.
///
/// The copies stand right after the original in its file; the rest of the file stays as it is, byte for byte. The
/// whole policy is checked with the copies in it before anything is written. Copies are not attached to interfaces.
#[derive(Debug, Args)]
struct Copy {
    /// The group to copy; "default" too
    #[arg(value_name = "SRC", add = names::groups())]
    source: String,
    /// Names of the copies
    #[arg(required = true, value_name = "NEW")]
    names: Vec<String>,
    /// Let rules of a copy that refer to @SRC refer to the copy instead
    #[arg(long)]
    rewrite_self: bool,
    /// The policy file, or the directory of policy files
    #[arg(long, value_name = "PATH")]
    policy: PathBuf,
    /// The VPC of the group, where several have one of this name
    #[arg(long, value_name = "NAME", add = names::vpcs())]
    vpc: Option<String>,
    /// The project of the group, where several have one of this name
    #[arg(long, value_name = "NAME", add = names::projects())]
    project: Option<String>,
}

impl Group {
    pub(super) fn run(self) -> Outcome {
        match self.verb {
            GroupVerb::Copy(verb) => verb.run(),
        }
    }
}

impl Copy {
    fn run(self) -> Outcome {
        let request = CopyRequest {
            source: self.source,
            names: self.names,
            rewrite_self: self.rewrite_self,
            project: self.project,
            vpc: self.vpc,
        };
        match edit::copy_group(&self.policy, &request) {
            Ok(copied) => {
                for copy in &copied {
                    print(&format!(
                        "{}:{}: {} is a copy of {}\n",
                        copy.file.display(),
                        copy.line,
                        copy.name,
                        request.source
                    ))?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                if let CopyError::Before(faults) | CopyError::After(faults) = &error {
                    for finding in &faults.diagnostics {
                        print(&format!("{}\n", render(finding, color())))?;
                    }
                }
                complain(&error.to_string());
                Ok(ExitCode::from(if error.is_trouble() { TROUBLE } else { NO }))
            }
        }
    }
}
