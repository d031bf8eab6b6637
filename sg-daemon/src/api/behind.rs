//! What is begun when an answer is written rather than before.
//!
//! To begin something mostly wakes up another thread, which may take the processor of the one that is about to write the
//! answer. So whoever made the answer leaves it to the connection, until that has done what it can for now: mostly that is to write
//! the answer, and otherwise it waits for something itself.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;

tokio::task_local! {
    static LATER: RefCell<Vec<Box<dyn FnOnce() + Send>>>;
}

/// Serves a connection. What its requests leave for later is done when the connection waits, for whatever it may be, or ends.
pub async fn serve<F: Future>(connection: F) -> F::Output {
    let mut connection = pin!(connection);
    let served = poll_fn(|context| {
        let polled = connection.as_mut().poll(context);
        LATER.with(RefCell::take).into_iter().for_each(|work| work());
        polled
    });
    LATER.scope(RefCell::default(), served).await
}

/// Does this behind the answer to the request at hand, or at once if there is none.
pub fn later(work: impl FnOnce() + Send + 'static) {
    if LATER.try_with(|_| ()).is_err() {
        return work();
    }
    LATER.with(|later| later.borrow_mut().push(Box::new(work)));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use super::*;

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[derive(Clone, Default)]
    struct Done(Arc<AtomicUsize>);

    impl Done {
        fn later(&self) {
            let done = Arc::clone(&self.0);
            later(move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }

        fn times(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn what_is_left_is_done_when_the_connection_waits_or_ends_and_not_before() {
        let (first, second) = (Done::default(), Done::default());
        wait(serve(async {
            first.later();
            assert_eq!(first.times(), 0, "the answer is not written yet");
            tokio::task::yield_now().await;
            assert_eq!(first.times(), 1, "the connection has waited");
            second.later();
        }));
        assert_eq!((first.times(), second.times()), (1, 1), "the connection has ended");
    }

    #[test]
    fn what_is_left_is_done_while_a_connection_waits_for_long() {
        let done = Done::default();
        wait(async {
            let mut connection = pin!(serve(async {
                done.later();
                std::future::pending::<()>().await;
            }));
            let waits = poll_fn(|context| Poll::Ready(connection.as_mut().poll(context).is_pending())).await;
            assert!(waits);
            assert_eq!(done.times(), 1);
        });
        assert_eq!(done.times(), 1);
    }

    #[test]
    fn where_there_is_no_connection_it_is_done_at_once() {
        let done = Done::default();
        done.later();
        assert_eq!(done.times(), 1);
    }
}
