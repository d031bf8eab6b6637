//! Edits of policy files, for people and programs.
//!
//! An edit is a splice: text is put in, or taken out, at one place of one file, and every other byte stays. Nothing is
//! written, and nothing put in force, until the whole policy has been loaded with the edit in it. [`apply`] is pure: the
//! daemon (`supervise::steward`) and `sgctl --policy` do the same with what it returns.

mod apply;
mod copy;
mod group;
mod list;
mod member;
mod replace;
mod rule;
mod sparse;
mod splice;

pub use apply::{
    Done, Edit, EditError, EditedFile, EditedPolicy, RuleDirection, apply, apply_next, apply_to,
};
pub use copy::{Copied, CopyError, CopyRequest, Edited, copy_group, copy_group_in};
