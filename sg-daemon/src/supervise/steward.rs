//! Whatever changes the policy goes through here, one after the other: files that change, orders from outside, time that
//! runs out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, oneshot};
use tokio::task::{block_in_place, spawn, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use super::edits::IDLE;
use super::install::Place;
use super::journal::Journal;
use super::retry::Retry;
use super::state::Prepared;
use super::{Cause, Options, by_device, never, reload, report};
use crate::api::behind;
use crate::api::candidate::ApplyAnswer;
use crate::api::edit::EditAnswer;
use crate::api::server::Shared;
use crate::crash::{self, Point};
use crate::enforce::{Applied, Enforcer};
use crate::metrics::tally::TALLY;
use crate::policy::edit::{Edit, EditError, EditedPolicy, apply_next};
use crate::policy::model::Model;
use crate::policy::{self, Loaded, Memo, Text};

/// So long after a change what nobody waits for begins, which is mostly behind the answer: until then the processors are left to whoever
/// reads that.
const BEHIND: Duration = Duration::from_millis(1);
/// How soon what could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is asked for from outside.
#[derive(Debug)]
pub enum Order {
    /// Read the daemon's own files now.
    Reload,
    /// Put these files in force, by name and text, and in the place of the daemon's own: now, or if that is confirmed
    /// within so long.
    Apply {
        files: Vec<(PathBuf, Vec<u8>)>,
        confirm: Option<Duration>,
    },
    /// Edit the daemon's own files, and put them in force.
    Edit(EditOrder),
    Confirm,
    Rollback,
}

/// Edits, all or none.
#[derive(Debug)]
pub struct EditOrder {
    pub edits: Vec<Edit>,
    /// Told what they did, before the answer.
    pub told: oneshot::Sender<EditAnswer>,
}

/// Why an order was not carried out. The policy before it is in force, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The candidate is no policy that can be enforced.
    #[error("{0}")]
    Faulty(String),
    /// Not now, or not so.
    #[error("{0}")]
    Conflict(String),
    /// The system would not.
    #[error("{0}")]
    Failed(String),
    /// An edit that cannot be made.
    #[error(transparent)]
    Edit(#[from] EditError),
}

pub type Answer = Result<ApplyAnswer, Refusal>;

/// The steward, for whoever has an order, and for the clock: one at a time, on the thread of who asks. Who finds it at rest waits for no
/// other thread, neither to have it nor to give it back. Clones are of the same one.
#[derive(Clone, Default)]
pub struct Orders {
    /// Nobody's before the daemon is ready and when it is about to end.
    steward: Arc<Mutex<Option<Steward>>>,
    /// Told when something is due at another time.
    alarms: Arc<Notify>,
}

impl Orders {
    pub async fn accept(&self, steward: Steward) {
        *self.steward.lock().await = Some(steward);
    }

    /// Nobody has it afterwards.
    pub async fn close(&self) -> Option<Steward> {
        self.steward.lock().await.take()
    }

    /// Does something at once, which may block. `None` if the daemon is about to end.
    pub async fn with<T>(&self, work: impl FnOnce(&mut Steward) -> T) -> Option<T> {
        let mut steward = self.steward.lock().await;
        let steward = steward.as_mut()?;
        let before = steward.alarms();
        let done = block_in_place(|| work(steward));
        if steward.alarms() != before {
            self.alarms.notify_one();
        }
        Some(done)
    }

    /// Waits until nobody has it.
    pub async fn at_rest(&self) {
        drop(self.steward.lock().await);
    }

    /// Carries out an order, to its end.
    pub async fn carry_out(&self, order: Order) -> Option<Answer> {
        self.with(|steward| {
            let answer = steward.order(order);
            let settled = steward.settled();
            behind::later(move || drop(spawn(settled)));
            answer
        })
        .await
    }

    /// Returns when something may be due, or is due at another time; [`Steward::time_is_up`] does it. Cancel-safe.
    pub async fn due(&self) {
        let alarms = self.steward.lock().await.as_ref().map_or([None; 2], Steward::alarms);
        tokio::select! {
            () = at(alarms.into_iter().flatten().min()) => {}
            () = self.alarms.notified() => {}
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => never().await,
    }
}

/// What there is to know about changes, for the API.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// When the policy in force is rolled back.
    pub until: Option<Instant>,
    pub files_changed: bool,
    /// Something that happened without anybody waiting for an answer.
    pub notice: Option<String>,
}

/// A policy in force that waits to be confirmed.
struct Unconfirmed {
    journal: Journal,
    prepared: Prepared,
    before: Arc<Model>,
    /// The daemon's own files, when the candidate came.
    files: u64,
}

pub struct Steward {
    options: Options,
    shared: Shared,
    retry: Retry,
    unconfirmed: Option<Unconfirmed>,
    /// Decided upon, and not in the operator's files yet.
    unfinished: Option<Journal>,
    due: Option<Instant>,
    /// What is not in the log yet: nobody waits for that.
    unreported: Option<Applied>,
}

impl Steward {
    pub fn new(options: Options, shared: Shared, retry: Retry, unfinished: Option<Journal>) -> Self {
        let due = unfinished.is_some().then(|| Instant::now() + AGAIN);
        Self { options, shared, retry, unconfirmed: None, unfinished, due, unreported: None }
    }

    /// When something is to be done by the clock: what waits to be confirmed or finished, and what was refused for devices.
    fn alarms(&self) -> [Option<Instant>; 2] {
        [self.due, self.retry.due()]
    }

    /// Does what is due.
    pub fn time_is_up(&mut self) {
        let [due, retry] = self.alarms().map(|alarm| alarm.is_some_and(|alarm| alarm <= Instant::now()));
        if due {
            self.finish_or_roll_back();
        }
        if retry {
            self.try_again();
        }
    }

    fn finish_or_roll_back(&mut self) {
        self.due = None;
        if self.unconfirmed.is_some() {
            let outcome = self.roll_back("the policy was not confirmed in time");
            if let Err(error) = outcome {
                tracing::error!(%error, "not rolled back; tried again");
            }
        }
        if let Some(journal) = self.unfinished.take() {
            self.finish(journal, None, Names::Candidate);
        }
    }

    /// The daemon's files have changed, or it is told to read them.
    pub fn files_changed(&mut self) {
        if let Some(why) = self.why_not() {
            tracing::warn!("the policy files are not read now: {why}");
            self.shared.changes().files_changed = self.unconfirmed.is_some();
            return;
        }
        // The outcome is in the log and in the status.
        let _ = self.reload(Cause::Operator);
    }

    /// A device has appeared, gone or changed: what was refused for one is tried again soon.
    pub fn devices_changed(&mut self) {
        self.retry.devices_changed();
    }

    fn try_again(&mut self) {
        if self.why_not().is_some() {
            // Later, if at all: whatever ends the wait reads the files, or has replaced them.
            return self.retry.tried(true);
        }
        let by_device = self.read(Cause::Devices).is_err_and(|error| by_device(&error));
        self.retry.tried(by_device);
    }

    fn reload(&mut self, cause: Cause) -> anyhow::Result<Applied> {
        let outcome = self.read(cause);
        self.retry = Retry::new(outcome.as_ref().is_err_and(by_device));
        outcome
    }

    fn read(&mut self, cause: Cause) -> anyhow::Result<Applied> {
        let outcome = reload(&self.options, &self.shared, cause);
        drop(spawn(self.settled()));
        if outcome.is_ok() {
            *self.shared.changes() = Changes::default();
        }
        outcome
    }

    /// Why no other policy can be put in force now.
    fn why_not(&self) -> Option<String> {
        if self.unconfirmed.is_some() {
            let left = self.due.map_or(0, |due| due.saturating_duration_since(Instant::now()).as_secs());
            return Some(format!(
                "a policy waits to be confirmed, and is rolled back in {left} s; run `sgctl confirm` or `sgctl rollback` first"
            ));
        }
        self.unfinished.is_some().then(|| {
            "the policy in force is not yet in the policy files, see `sgctl status`; make room for it first".to_owned()
        })
    }

    fn order(&mut self, order: Order) -> Answer {
        if let (Order::Reload | Order::Apply { .. } | Order::Edit(_), Some(why)) = (&order, self.why_not()) {
            return Err(Refusal::Conflict(why));
        }
        self.carried_out(order)
    }

    /// Finishes the change in the kernel, frees what the policy before has left, and sees to it that what was edited is on the disk,
    /// without anybody waiting for it. Nothing of it is begun before the future is polled.
    fn settled(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let (shared, unreported) = (self.shared.clone(), self.unreported.take());
        let work = move || {
            unreported.into_iter().for_each(report);
            shared.settle();
            let views = shared.enforcer().views();
            views.tidy();
            shared.memo.tidy();
        };
        let kept = self.shared.kept.clone();
        let resting = kept.clone();
        let disk = move || {
            if let Err(error) = kept.settle() {
                tracing::warn!(%error, "it is not sure that the edited policy file is on the disk; tried again later");
            }
        };
        async move {
            sleep(BEHIND).await;
            // The kernel's part is mostly waiting.
            let disk = spawn_blocking(disk);
            let _ = spawn_blocking(work).await;
            let _ = disk.await;
            sleep(IDLE).await;
            let _ = spawn_blocking(move || resting.rest()).await;
        }
    }

    fn report(&mut self) {
        self.unreported.take().into_iter().for_each(report);
    }

    fn carried_out(&mut self, order: Order) -> Answer {
        match order {
            Order::Reload => match self.reload(Cause::Operator) {
                Ok(applied) => Ok(answer(applied)),
                Err(error) => Err(Refusal::Faulty(format!("{error:#}"))),
            },
            Order::Apply { files, confirm } => self.apply(files, confirm),
            Order::Edit(order) => self.edit(order),
            Order::Confirm => self.confirm(),
            Order::Rollback => {
                if self.unconfirmed.is_none() {
                    return Err(Refusal::Conflict(
                        "no policy waits to be confirmed; `sgctl apply --confirm TIME` applies one that does"
                            .to_owned(),
                    ));
                }
                self.roll_back("rolled back as asked").map(answer)
            }
        }
    }

    fn apply(&mut self, mut files: Vec<(PathBuf, Vec<u8>)>, confirm: Option<Duration>) -> Answer {
        // As they will be read from a directory.
        files.sort_by(|(a, _), (b, _)| a.file_name().cmp(&b.file_name()));
        let in_force = Candidate::of(&self.options, files)
            .and_then(|candidate| put_in_force(&self.options, &self.shared, candidate, confirm));
        match counted(in_force)? {
            InForce::Begun(begun) => self.keep(*begun, confirm, Names::Candidate),
            InForce::Noted(noted) => self.noted(*noted),
        }
    }

    /// Edits the daemon's own files.
    fn edit(&mut self, EditOrder { edits, told }: EditOrder) -> Answer {
        let edited =
            counted(apply_next(&self.options.policy, &edits, &self.shared.memo).map_err(Refusal::Edit))?;
        let answers = EditAnswer::later(&edited);
        // Meanwhile; who does not wait any more has gone away.
        drop(spawn_blocking(move || told.send(answers())));
        if edited.changed.is_empty() {
            return Ok(answer(self.unchanged()));
        }
        let in_force = Candidate::of_edit(edited)
            .and_then(|candidate| put_in_force(&self.options, &self.shared, candidate, None));
        match counted(in_force)? {
            InForce::Begun(begun) => self.keep(*begun, None, Names::Own),
            InForce::Noted(noted) => self.noted(*noted),
        }
    }

    fn accepted(&mut self, applied: Applied) {
        TALLY.accepted(applied.changed);
        self.unreported = Some(applied);
        self.retry = Retry::new(false);
        *self.shared.refused() = None;
        *self.shared.changes() = Changes::default();
    }

    /// What follows an edit that is decided upon.
    fn noted(&mut self, Noted { applied, place, texts, replaced }: Noted) -> Answer {
        self.accepted(applied);
        let Err(error) = replaced else { return Ok(answer(applied)) };
        // Not by a rename of its own: by the journal, which tries until it can be done.
        let begin = || {
            let journal = Journal::begin(&self.options.state_dir, place, &texts, None)?;
            let mut prepared = journal.stage(&texts).inspect_err(|_| drop(journal.undo()))?;
            journal.decide(&mut prepared).inspect_err(|_| drop(journal.undo()))?;
            Ok::<_, std::io::Error>((journal, prepared))
        };
        let warning = match begin() {
            Ok((journal, prepared)) => self.finish(journal, Some(prepared), Names::Own),
            Err(_) => {
                let why = format!(
                    "the policy in force cannot be written to the policy files: {error}; sgd tries again when it starts"
                );
                tracing::error!("{why}");
                self.shared.changes().notice = Some(why.clone());
                Some(why)
            }
        };
        Ok(ApplyAnswer { warning, ..answer(applied) })
    }

    /// What follows the swap.
    fn keep(&mut self, begun: Begun, confirm: Option<Duration>, names: Names) -> Answer {
        let (journal, mut prepared, before, own, applied) = begun;
        self.accepted(applied);
        self.report();
        if let Some(confirm) = confirm {
            crash::at(Point::Unconfirmed);
            let until = Instant::now() + confirm;
            tracing::warn!(seconds = confirm.as_secs(), "the policy is rolled back unless it is confirmed");
            self.due = Some(until);
            self.shared.changes().until = Some(until);
            self.unconfirmed = Some(Unconfirmed { journal, prepared, before, files: own });
            return Ok(ApplyAnswer { unconfirmed: Some(confirm.as_secs()), ..answer(applied) });
        }
        if let Err(error) = journal.decide(&mut prepared) {
            let undone = self.back_to(before);
            let _ = journal.undo();
            return Err(undecided(&error, undone.map_err(|undo| undo.to_string())));
        }
        let warning = self.finish(journal, Some(prepared), names);
        Ok(ApplyAnswer { warning, ..answer(applied) })
    }

    fn confirm(&mut self) -> Answer {
        let Some(unconfirmed) = &mut self.unconfirmed else {
            return Err(Refusal::Conflict(
                "no policy waits to be confirmed; it may have been rolled back, see `sgctl status`"
                    .to_owned(),
            ));
        };
        if policy::fingerprint(&self.options.policy, &self.shared.memo) != unconfirmed.files {
            let why =
                "the policy files have changed since, and confirming would overwrite them; `sgctl rollback` \
                       goes back to the policy before and then reads them"
                    .to_owned();
            return Err(Refusal::Conflict(why));
        }
        if let Err(error) = unconfirmed.journal.decide(&mut unconfirmed.prepared) {
            let why = format!(
                "that the policy is decided upon cannot be noted: {error}; it stays unconfirmed; make room in the state directory, and confirm again"
            );
            return Err(Refusal::Failed(why));
        }
        self.due = None;
        *self.shared.changes() = Changes::default();
        tracing::info!("the policy is confirmed");
        let decided = self.unconfirmed.take();
        let warning = decided.and_then(|Unconfirmed { journal, prepared, .. }| {
            self.finish(journal, Some(prepared), Names::Candidate)
        });
        Ok(ApplyAnswer { warning, ..answer(self.unchanged()) })
    }

    /// Brings the decided policy into the operator's files, or remembers to try again. What went wrong, if anything did.
    fn finish(&mut self, journal: Journal, prepared: Option<Prepared>, names: Names) -> Option<String> {
        // The copy is about to be another one.
        self.shared.kept.forget();
        if let Err(error) = journal.finish(prepared) {
            let why = format!(
                "the policy in force cannot be written to the policy files: {error}; sgd tries again every {} s, and when it starts",
                AGAIN.as_secs()
            );
            tracing::error!("{why}");
            self.shared.changes().notice = Some(why.clone());
            self.unfinished = Some(journal);
            self.due = Some(Instant::now() + AGAIN);
            return Some(why);
        }
        if names == Names::Own {
            // Whoever changes the files meanwhile is noticed by the watch.
            return None;
        }
        // The same policy, known by the names of its own files.
        match self.reload(Cause::Operator) {
            Ok(_) => None,
            Err(error) => Some(format!(
                "the policy files are replaced, and say something else by now: {error:#}; look at them, and run `sgctl apply`"
            )),
        }
    }

    /// Puts the policy before the unconfirmed one in force again.
    fn roll_back(&mut self, why: &str) -> Result<Applied, Refusal> {
        let Some(unconfirmed) = self.unconfirmed.take() else {
            return Err(Refusal::Conflict(
                "no policy waits to be confirmed; `sgctl apply --confirm TIME` applies one that does"
                    .to_owned(),
            ));
        };
        crash::at(Point::RollbackBegun);
        let applied = match self.back_to(Arc::clone(&unconfirmed.before)) {
            Ok(applied) => applied,
            Err(error) => {
                self.unconfirmed = Some(unconfirmed);
                self.due = Some(Instant::now() + AGAIN);
                let text = format!(
                    "the policy before cannot be put in force again, which is tried every {} s: {error}",
                    AGAIN.as_secs()
                );
                self.shared.changes().notice = Some(text.clone());
                return Err(Refusal::Failed(text));
            }
        };
        crash::at(Point::RolledBack);
        TALLY.accepted(applied.changed);
        self.due = None;
        let read_files = self.shared.changes().files_changed;
        let text = format!("{why}; the policy before it is in force again");
        tracing::warn!(generation = applied.generation, "{text}");
        *self.shared.changes() = Changes { notice: Some(text), ..Changes::default() };
        if let Err(error) = unconfirmed.journal.undo() {
            tracing::warn!(%error, "the journal of the policy that was rolled back stays; the next start removes it");
        }
        if read_files {
            let notice = self.shared.changes().notice.clone();
            let _ = self.reload(Cause::Operator);
            self.shared.changes().notice = notice;
        }
        Ok(applied)
    }

    fn back_to(&self, before: Arc<Model>) -> Result<Applied, Refusal> {
        let outcome = self.shared.enforcer().apply_again(before);
        outcome.map_err(|error| Refusal::Failed(format!("{:#}", anyhow::Error::new(error))))
    }

    /// What is told where nothing has changed.
    fn unchanged(&self) -> Applied {
        let generation = self.shared.enforcer().kernel().generation();
        Applied { generation, changed: false, written: 0, deleted: 0, revoked: 0 }
    }

    /// Before the daemon ends: nobody could roll back later.
    pub fn stop(&mut self) {
        if self.unconfirmed.is_some()
            && let Err(error) = self.roll_back("sgd ends before the policy was confirmed")
        {
            tracing::error!(%error, "the policy that was not confirmed stays in force until sgd starts again");
        }
    }
}

/// By which names the policy in force knows its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Those that came with it.
    Candidate,
    /// Those that the daemon reads.
    Own,
}

/// A policy that is in force, and how it goes on.
enum InForce {
    /// To be decided upon in the journal.
    Begun(Box<Begun>),
    /// An edit that is decided upon.
    Noted(Box<Noted>),
}

type Begun = (Journal, Prepared, Arc<Model>, u64, Applied);

struct Noted {
    applied: Applied,
    place: Place,
    texts: Vec<Text>,
    /// Whether the operator's file has it.
    replaced: std::io::Result<()>,
}

/// A policy that could be in force, and where its texts would go.
struct Candidate {
    model: Arc<Model>,
    texts: Vec<Text>,
    place: Place,
    /// Files that have to be as they were when the candidate was made.
    unchanged: Vec<(PathBuf, Text)>,
    /// Of an edit: what the same files said before.
    before: Vec<Text>,
}

impl Candidate {
    /// In the place of the daemon's files.
    fn of(options: &Options, files: Vec<(PathBuf, Vec<u8>)>) -> Result<Self, Refusal> {
        let Loaded { model, texts, .. } =
            policy::load_bytes(files).map_err(|error| Refusal::Faulty(error.to_string()))?;
        let place =
            Place::of(&options.policy, &model.files).map_err(|error| Refusal::Conflict(error.to_string()))?;
        Ok(Self { model, texts, place, unchanged: Vec::new(), before: Vec::new() })
    }

    /// The daemon's files, some of them edited.
    fn of_edit(edited: EditedPolicy) -> Result<Self, Refusal> {
        let EditedPolicy { changed, after, files, .. } = edited;
        let paths: Vec<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
        let indexes: Vec<usize> = changed.iter().map(|file| file.index).collect();
        let place = Place::of_edit(&paths, &indexes).map_err(|error| Refusal::Conflict(error.to_string()))?;
        let texts: Vec<Text> = files.into_iter().map(|(_, text)| text).collect();
        let mut before = texts.clone();
        for file in &changed {
            before.get_mut(file.index).into_iter().for_each(|text| *text = file.before.clone());
        }
        let unchanged = changed.into_iter().map(|file| (file.path, file.before)).collect();
        Ok(Self { model: after, texts, place, unchanged, before })
    }

    /// Nobody else's change is to be lost.
    fn is_current(&self, memo: &Memo) -> Result<(), Refusal> {
        for (path, before) in &self.unchanged {
            if !before.is_current(memo) {
                let path = path.display();
                return Err(Refusal::Conflict(format!(
                    "somebody else has changed {path} meanwhile; nothing was changed, try again"
                )));
            }
        }
        Ok(())
    }
}

/// From the texts to the swap. Whatever fails is undone.
fn put_in_force(
    options: &Options,
    shared: &Shared,
    candidate: Candidate,
    confirm: Option<Duration>,
) -> Result<InForce, Refusal> {
    let failed = |what: &str, error: std::io::Error| {
        Refusal::Failed(format!(
            "{what}: {error}; nothing has changed; make room there, or let sgd write there, and apply again"
        ))
    };
    // Nobody asks for it but who confirms.
    let own = confirm.map_or(0, |_| policy::fingerprint(&options.policy, &shared.memo));
    let mut enforcer = shared.enforcer();
    let Some(before) = enforcer.active().map(|active| Arc::clone(&active.model)) else {
        return Err(Refusal::Conflict(
            "no policy is in force yet; ask again when sgd is ready (`sgctl status`)".to_owned(),
        ));
    };
    let seconds = confirm.map(|confirm| confirm.as_secs());
    candidate.is_current(&shared.memo)?;
    if let Some(noted) = edit_in_force(options, shared, &mut enforcer, &candidate, &before)? {
        return Ok(InForce::Noted(Box::new(noted)));
    }
    let Candidate { model, texts, place, .. } = candidate;
    shared
        .kept
        .settle()
        .map_err(|error| failed("what was edited before cannot be brought to the disk", error))?;
    shared.kept.stand_back();
    let journal = Journal::begin(&options.state_dir, place, &texts, seconds).map_err(|error| {
        failed(&format!("cannot write to the state directory {}", options.state_dir.display()), error)
    })?;
    let undone = |journal: &Journal| {
        if let Err(error) = journal.undo() {
            tracing::warn!(%error, "the journal of a policy that was refused stays; the next start removes it");
        }
    };
    let prepared = journal.stage(&texts).map_err(|error| {
        undone(&journal);
        failed("cannot write the policy beside the policy files, or its copy", error)
    })?;
    let applied = enforcer.apply(model).map_err(|error| {
        undone(&journal);
        Refusal::Faulty(format!("{:#}", anyhow::Error::new(error)))
    })?;
    Ok(InForce::Begun(Box::new((journal, prepared, before, own, applied))))
}

/// The same for an edit that a line can note: see `edits`. `None` if it has to go by the journal, which also has the words for
/// what is wrong.
fn edit_in_force(
    options: &Options,
    shared: &Shared,
    enforcer: &mut Enforcer,
    candidate: &Candidate,
    before: &Arc<Model>,
) -> Result<Option<Noted>, Refusal> {
    let Candidate { model, texts, place, before: old, .. } = candidate;
    let Ok(Some(noting)) = shared.kept.prepare(&options.state_dir, place, (old, texts)) else {
        return Ok(None);
    };
    let Ok(Some(staged)) = place.stage_alone(texts, shared.kept.spare()) else { return Ok(None) };
    let applied = enforcer
        .apply(Arc::clone(model))
        .map_err(|error| Refusal::Faulty(format!("{:#}", anyhow::Error::new(error))))?;
    if let Err(error) = shared.kept.note(noting) {
        let undone = enforcer.apply_again(Arc::clone(before));
        let undone = undone.map_err(|undo| format!("{:#}", anyhow::Error::new(undo)));
        return Err(undecided(&error, undone));
    }
    let replaced = shared.kept.put_in_place(place, staged, old).map(|now| {
        if let (Some(text), Some(file)) = (place.first_of(texts), now) {
            text.was_written(&shared.memo, &file);
        }
    });
    if replaced.is_err() {
        // What is noted stays noted, and is never said to be in place.
        shared.kept.forget();
    }
    Ok(Some(Noted { applied, place: place.clone(), texts: texts.clone(), replaced }))
}

/// A policy was put in force, cannot be noted, and was taken back.
fn undecided(error: &std::io::Error, undone: Result<Applied, String>) -> Refusal {
    Refusal::Failed(match undone {
        Ok(_) => format!(
            "that the policy is decided upon cannot be noted: {error}; the one before is in force again; make room in the state directory, and apply again"
        ),
        Err(undo) => format!(
            "that the policy is decided upon cannot be noted: {error}; and the one before cannot be put in force again: {undo}; make room in the state directory, and restart sgd"
        ),
    })
}

/// As it is, and in the metrics.
fn counted<T>(outcome: Result<T, Refusal>) -> Result<T, Refusal> {
    if outcome.is_err() {
        TALLY.failed();
    }
    outcome
}

fn answer(applied: Applied) -> ApplyAnswer {
    let Applied { generation, changed, written, deleted, revoked } = applied;
    ApplyAnswer { generation, changed, written, deleted, revoked, unconfirmed: None, warning: None }
}
