//! The daemon: loads, watches, swaps, answers, and stops when it is told to.

pub mod detach;
pub mod edits;
pub mod inject;
mod install;
mod journal;
mod layout;
mod lock;
pub mod log;
mod notify;
pub mod panic;
mod retry;
mod spare;
pub mod state;
pub mod status;
pub mod steward;
mod watch;

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::block_in_place;
use tokio::time::{MissedTickBehavior, interval};

use self::edits::Kept;
use self::journal::{Journal, Recovered};
use self::notify::Watchdog;
use self::retry::Retry;
use self::steward::{Changes, Orders, Steward};
use self::watch::{FileWatch, LinkWatch};
use crate::api::peer::{Access, SocketOptions};
use crate::api::server::{Shared, bind, serve};
use crate::enforce::gate::Gate;
use crate::enforce::{Applied, ApplyError, Enforcer};
use crate::events::Events;
use crate::flowlog::{FlowLog, FlowLogOptions};
use crate::kernel::{TableSizes, TcMode};
use crate::metrics::serve::{Place, bind as bind_metrics, serve as serve_metrics};
use crate::metrics::tally::TALLY;
use crate::policy::{self, LoadError, Loaded, Memo};

/// How often flows that are over are collected.
const COLLECT_EVERY: Duration = Duration::from_secs(5);

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    pub policy: Vec<PathBuf>,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub socket_options: SocketOptions,
    pub pin_dir: PathBuf,
    pub tc_mode: TcMode,
    pub sizes: TableSizes,
    pub detach_on_exit: bool,
    /// A filter whose maps have another layout may be replaced.
    pub replace_layout: bool,
    /// Where Prometheus may ask.
    pub metrics: Option<Place>,
    /// Where and how flows are written down, if at all.
    pub flow_log: Option<FlowLogOptions>,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
///
/// If there is no policy to begin with, or the kernel or the socket cannot be used. What an earlier daemon left in force
/// stays in force.
pub async fn run(options: Options) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.state_dir).with_context(|| {
        format!(
            "cannot make the state directory {}; pass one that sgd may write to (--state-dir)",
            options.state_dir.display()
        )
    })?;
    let cannot = || {
        format!("cannot listen on {}; stop whatever does, or pass another --socket", options.socket.display())
    };
    let socket = options.socket_options.resolve().with_context(cannot)?;
    let listener = bind(&options.socket, socket).with_context(cannot)?;
    let metrics = match options.metrics {
        Some(place) => Some(bind_metrics(place).await?),
        None => None,
    };
    let outcome = enforce(&options, listener, socket.access, metrics).await;
    let _ = std::fs::remove_file(&options.socket);
    outcome
}

async fn enforce(
    options: &Options,
    listener: UnixListener,
    access: Access,
    metrics: Option<TcpListener>,
) -> anyhow::Result<()> {
    // Everything that may fail without a trace first. The lock is held until this ends.
    let _lock = lock::lock(&options.pin_dir)?;
    let flow_log = open_flow_log(options.flow_log.as_ref())?;
    let replacement = layout::find(options)?;
    let (unfinished, notice) = recover(&options.state_dir);
    if unfinished.is_none() {
        install::remove_staged(&options.policy);
    }
    // Watches begin before anything is read, so that no change falls in between.
    let mut files = FileWatch::new(&options.policy).context(
        "cannot watch the policy files; look at fs.inotify.max_user_watches and max_user_instances",
    )?;
    let gate = Arc::new(Gate::default());
    let mut links = LinkWatch::new(Arc::clone(&gate))
        .context("cannot watch the network devices; sgd needs a netlink socket (AF_NETLINK)")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;

    let (pin_dir, tc_mode, sizes) = (options.pin_dir.clone(), options.tc_mode, options.sizes);
    let open = move || Enforcer::open(&pin_dir, tc_mode, sizes).map(|enforcer| enforcer.behind(gate));
    let mut enforcer = tokio::task::spawn_blocking(open).await??;
    let kept = enforcer.kernel().sizes();
    if kept != sizes {
        // A table cannot grow, and one in its place would have none of its connections (D20).
        tracing::warn!(
            "the connection tables of the sgd before are kept, with their connections and sizes: {kept}; asked for were \
             {sizes}. To have those, at the price of all connections: run sgd with --detach-on-exit, stop it, start it"
        );
    }
    let orders = Orders::default();
    let enforcer = Arc::new(Mutex::new(enforcer));
    let events = Events::start(&enforcer, &options.state_dir)
        .context("cannot listen to the programs; restart sgd, and report it if it happens again")?;
    let shared = Shared {
        enforcer,
        events,
        refused: Arc::new(Mutex::new(None)),
        changes: Arc::new(Mutex::new(Changes { notice, ..Changes::default() })),
        orders: orders.clone(),
        policy: options.policy.clone().into(),
        memo: Memo::default(),
        kept: Kept::default(),
        large: Arc::default(),
        readers: Arc::default(),
        flow_log: Arc::new(Mutex::new(flow_log)),
    };
    replacement.begin(&shared);
    let started = block_in_place(|| start(options, &shared, unfinished.as_ref()));
    let by_device = started.inspect_err(|_| replacement.give_up(&shared))?;
    replacement.finish(&shared).await?;
    begin_to_count(&shared)?;
    // Who waits for a start finds nothing of the policy before.
    on_enforcer(&shared, Enforcer::settle).await?;
    let retry = Retry::new(by_device);
    orders.accept(Steward::new(options.clone(), shared.clone(), retry, unfinished)).await;
    let mut server = tokio::spawn(serve(listener, shared.clone(), access));
    let metrics = metrics.map(|listener| tokio::spawn(serve_metrics(listener, shared.clone())));
    let mut watchdog = Watchdog::new();
    notify::ready(&shared);
    tracing::info!("ready");

    let mut collect = interval(COLLECT_EVERY);
    collect.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let until_told = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => {
                    if let Some(flow_log) = &*shared.flow_log() {
                        flow_log.reopen();
                    }
                    orders.with(Steward::files_changed).await;
                }
                () = files.changed() => drop(orders.with(Steward::files_changed).await),
                () = orders.due() => drop(orders.with(Steward::time_is_up).await),
                changed = links.changed() => {
                    changed.context("the network devices cannot be watched any more; restart sgd")?;
                    on_enforcer(&shared, reconcile).await?;
                    orders.with(Steward::devices_changed).await;
                }
                _ = collect.tick() => collect_flows(&shared).await?,
                () = watchdog.due() => watchdog.beat(&shared),
                // The kernel side goes on; whoever supervises this process starts it again.
                ended = &mut server => anyhow::bail!("the API has stopped: {ended:?}; restart sgd"),
            }
        }
    };
    let told = until_told.await;
    // However it ends: nobody else's order is carried out from here on.
    let steward = orders.close().await;
    told?;
    notify::stopping();
    server.abort();
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    let events = shared.events.clone();
    tokio::task::spawn_blocking(move || events.stop()).await?;
    end_flow_log(&shared).await;
    if let Some(mut steward) = steward
        && !options.detach_on_exit
    {
        block_in_place(|| steward.stop());
    }
    let kept = shared.kept.clone();
    let settled = tokio::task::spawn_blocking(move || {
        let settled = kept.settle();
        kept.forget();
        settled
    });
    if let Err(error) = settled.await? {
        tracing::warn!(%error, "it is not sure that the edited policy file is on the disk; the next start looks");
    }
    if options.detach_on_exit {
        detach(&shared)?;
    } else {
        tracing::info!("stopped; the policy stays in force without the daemon");
    }
    Ok(())
}

/// Finishes or undoes what the daemon before was at when it died. What is left to be finished, and what to say of it.
fn recover(state_dir: &Path) -> (Option<Journal>, Option<String>) {
    let (unfinished, notice) = match journal::recover(state_dir) {
        Ok(Recovered::Nothing) => (None, None),
        Ok(Recovered::Undone { unconfirmed: true }) => (
            None,
            Some("sgd ended before the policy was confirmed: it is rolled back to the one before".to_owned()),
        ),
        Ok(Recovered::Undone { unconfirmed: false }) => (
            None,
            Some(
                "sgd ended while it applied a policy: that is undone, the one before is in force".to_owned(),
            ),
        ),
        Ok(Recovered::Finished) => (
            None,
            Some("sgd ended while it applied a policy: that is finished, the new one is in force".to_owned()),
        ),
        Ok(Recovered::Unfinished(journal, error)) => (Some(journal), Some(format!("{UNFINISHED}: {error}"))),
        Err(error) => (None, Some(format!("what the sgd before was at cannot be read or undone: {error}"))),
    };
    // What is not finished by now has all edits in it.
    let (unfinished, edited) = match unfinished {
        Some(journal) => (Some(journal), None),
        None => recover_edits(state_dir),
    };
    let notices: Vec<String> = notice.into_iter().chain(edited).collect();
    if notices.is_empty() {
        return (unfinished, None);
    }
    let notice = notices.join("; ");
    tracing::warn!("{notice}");
    (unfinished, Some(notice))
}

const UNFINISHED: &str =
    "sgd ended while it applied a policy: the new one is in force, but the policy files cannot be replaced";

fn recover_edits(state_dir: &Path) -> (Option<Journal>, Option<String>) {
    match edits::recover(state_dir) {
        Ok(edits::Recovered::Nothing) => (None, None),
        Ok(edits::Recovered::Finished) => (
            None,
            Some(
                "sgd ended right after an edit, which was not in the policy file yet: it is there now"
                    .to_owned(),
            ),
        ),
        Ok(edits::Recovered::Unfinished(journal, error)) => {
            (Some(journal), Some(format!("{UNFINISHED}: {error}")))
        }
        Err(error) => (
            None,
            Some(format!("the edits that the sgd before made last cannot be read or finished: {error}")),
        ),
    }
}

/// The first policy: the operator's, or the last good one while the operator's is bad. Whether the operator's was refused
/// for what a device is like.
fn start(options: &Options, shared: &Shared, unfinished: Option<&Journal>) -> anyhow::Result<bool> {
    if let Some(journal) = unfinished {
        // The operator's files may be half replaced.
        apply_copy(journal.files(), shared)
            .context("the policy that was applied last cannot be used; correct the policy files (`sgctl check`), and start sgd again")?;
        return Ok(false);
    }
    let error = match apply_files(options, shared, Copy::IfPossible) {
        Ok(applied) => {
            accepted(applied);
            return Ok(false);
        }
        Err(error) => error,
    };
    TALLY.failed();
    let copy = state::last_good(&options.state_dir);
    if !copy.exists() {
        let why = format!(
            "there is no policy to start with: no last good one in {}; correct what is told next (`sgctl check`), and start sgd again",
            options.state_dir.display()
        );
        return Err(error.context(why));
    }
    tracing::error!(error = format!("{error:#}"), "policy refused; the last good policy is used");
    *shared.refused() = Some(format!("{error:#}"));
    apply_copy(copy, shared).context(
        "the copy of the last good policy cannot be used either; correct the policy files (`sgctl check`), and start sgd again",
    )?;
    Ok(by_device(&error))
}

/// Why the policy is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The files have changed, or the operator says so.
    Operator,
    /// The files were refused, and devices have changed.
    Devices,
}

/// Puts the operator's files in force; if they are bad, what is in force stays (D22).
fn reload(options: &Options, shared: &Shared, cause: Cause) -> anyhow::Result<Applied> {
    if cause == Cause::Devices {
        return read_again(options, shared, cause);
    }
    notify::reloading();
    let outcome = read_again(options, shared, cause);
    notify::ready(shared);
    outcome
}

fn read_again(options: &Options, shared: &Shared, cause: Cause) -> anyhow::Result<Applied> {
    let error = match apply_files(options, shared, Copy::Needed) {
        Ok(applied) => {
            *shared.refused() = None;
            accepted(applied);
            return Ok(applied);
        }
        Err(error) => error,
    };
    TALLY.failed();
    let text = format!("{error:#}");
    let before = shared.refused().replace(text.clone());
    if cause == Cause::Operator || before.as_ref() != Some(&text) {
        tracing::error!(error = text, "policy refused; the one before stays in force");
    }
    Err(error)
}

/// Whether another state of the devices could make the policy pass: there is no fault in the policy, and it fits.
fn by_device(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApplyError>().is_some_and(|error| !matches!(error, ApplyError::Plan(_)))
}

fn accepted(applied: Applied) {
    TALLY.accepted(applied.changed);
    report(applied);
}

fn report(applied: Applied) {
    let Applied { generation, changed, written, deleted, revoked } = applied;
    if changed {
        tracing::info!(generation, written, deleted, revoked, "policy applied");
    } else {
        tracing::info!(generation, "policy unchanged");
    }
}

/// What if there is no room for a copy of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    /// The policy is refused: after a crash and a bad edit nobody would know of it.
    Needed,
    /// Better a policy without a copy than none.
    IfPossible,
}

/// Puts the operator's files in force and keeps what they said as the last good policy.
fn apply_files(options: &Options, shared: &Shared, need: Copy) -> anyhow::Result<Applied> {
    let loaded = load(&options.policy, &shared.memo)?;
    if shared.kept.says(&loaded.texts) {
        return Ok(shared.enforcer().apply(loaded.model)?);
    }
    shared.kept.settle().context("what was edited last cannot be brought to the disk")?;
    let files = loaded.model.files.iter().map(PathBuf::as_path);
    let texts = loaded.texts.iter().map(|text| text.as_bytes());
    let copy = state::prepare(&options.state_dir, files.zip(texts), None);
    let copy = match copy {
        Err(error) if need == Copy::Needed => {
            let path = options.state_dir.display();
            return Err(error).with_context(|| {
                format!("there is no copy of the policy in the state directory {path}; make room, and run `sgctl apply`")
            });
        }
        copy => copy,
    };
    let mut enforcer = shared.enforcer();
    let applied = enforcer.apply(loaded.model)?;
    // While the enforcer is held: nobody is told that the policy is in force before it is kept.
    shared.kept.forget();
    match copy.and_then(state::Prepared::commit) {
        Ok(()) => shared.kept.is_now(loaded.texts),
        Err(error) => {
            tracing::error!(%error, "the policy is in force, but its copy in the state directory is an older one");
        }
    }
    Ok(applied)
}

/// Puts the last good policy in force.
fn apply_copy(copy: PathBuf, shared: &Shared) -> anyhow::Result<Applied> {
    let model = match edits::edited(&copy)? {
        // Edits that could not be brought into the copy.
        Some(files) => policy::load_bytes(files)?.model,
        None => load(&[copy], &shared.memo)?.model,
    };
    Ok(shared.enforcer().apply_again(model)?)
}

fn load(paths: &[PathBuf], memo: &Memo) -> anyhow::Result<Loaded> {
    let loaded = policy::load_next(paths, memo).map_err(|error: LoadError| {
        give_memory_back();
        anyhow::anyhow!(error.to_string())
    })?;
    for lint in &loaded.lints {
        tracing::debug!("{lint}");
    }
    Ok(loaded)
}

/// What a hostile file is made of when it is refused is millions of small pieces, in between of which the allocator keeps
/// what it could give back.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes an integer, and looks at nothing but memory that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Does a piece of work that may block. Its failures are its own; if it does not come to its end, neither does the daemon.
async fn on_enforcer(shared: &Shared, work: fn(&mut Enforcer)) -> anyhow::Result<()> {
    let shared = shared.clone();
    tokio::task::spawn_blocking(move || work(&mut shared.enforcer()))
        .await
        .context("a task has failed; restart sgd, and report what its log says")
}

fn reconcile(enforcer: &mut Enforcer) {
    inject::here("reconcile");
    if let Err(error) = enforcer.reconcile() {
        tracing::error!(error = format!("{:#}", anyhow::Error::new(error)), "a device is not filtered");
    }
}

/// Deletes what is over, and writes down what is to be written.
async fn collect_flows(shared: &Shared) -> anyhow::Result<()> {
    let shared = shared.clone();
    let collect = move || {
        let outcome = match &mut *shared.flow_log() {
            Some(flow_log) => flow_log.collect(&shared),
            None => shared.enforcer().kernel().collect(),
        };
        shared.settle();
        match outcome {
            Ok(0) => {}
            Ok(flows) => tracing::debug!(flows, "collected"),
            Err(error) => tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "not collected"),
        }
    };
    tokio::task::spawn_blocking(collect)
        .await
        .context("a task has failed; restart sgd, and report what its log says")
}

fn open_flow_log(options: Option<&FlowLogOptions>) -> anyhow::Result<Option<FlowLog>> {
    let Some(options) = options else { return Ok(None) };
    let flow_log = FlowLog::open(options.clone()).with_context(|| {
        let path = options.path.display();
        format!("cannot write the flow log {path}; name another file with --flow-log, or start without one")
    })?;
    Ok(Some(flow_log))
}

/// Packets are counted flow by flow if that is written down, and not otherwise, whatever an earlier daemon did.
fn begin_to_count(shared: &Shared) -> anyhow::Result<()> {
    let mut flow_log = shared.flow_log();
    let mut enforcer = shared.enforcer();
    match &mut *flow_log {
        Some(flow_log) => flow_log.begin(&mut enforcer),
        None => enforcer.kernel().set_accounting(false),
    }
    .context("the kernel does not count packets flow by flow; start sgd without --flow-log, and report it")
}

async fn end_flow_log(shared: &Shared) {
    let shared = shared.clone();
    let end = move || {
        // In a statement of its own: the lock is not held while the log is written.
        let flow_log = shared.flow_log().take();
        if let Some(flow_log) = flow_log {
            flow_log.end(&shared);
        }
    };
    if tokio::task::spawn_blocking(end).await.is_err() {
        tracing::warn!(
            "the end of the flow log may be missing; the next sgd writes what the kernel has counted"
        );
    }
}

fn detach(shared: &Shared) -> anyhow::Result<()> {
    shared.enforcer().detach_everything().context("something stays pinned; `sgd --detach` takes it off")?;
    tracing::info!("stopped and detached; nothing is filtered");
    Ok(())
}

/// A future that never ends, for a watch that has nothing to watch.
async fn never() {
    pending::<()>().await;
}
