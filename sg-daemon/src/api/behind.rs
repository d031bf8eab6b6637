//! What is let go of when an answer is written, not before.
//!
//! To give something back mostly wakes up another thread, which may take the processor of the one that is about to write the
//! answer. So whoever made the answer leaves it with the connection, until that has done what it can for now.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;

tokio::task_local! {
    static LEFT: RefCell<Vec<Box<dyn Send>>>;
}

/// Serves a connection. What its requests leave goes when the connection waits, for whatever it may be, or ends.
pub async fn serve<F: Future>(connection: F) -> F::Output {
    let mut connection = pin!(connection);
    let served = poll_fn(|context| {
        let polled = connection.as_mut().poll(context);
        let left = LEFT.with(RefCell::take);
        drop(left);
        polled
    });
    LEFT.scope(RefCell::default(), served).await
}

/// Drops this behind the answer to the request at hand, or at once if there is none.
pub fn leave(what: impl Send + 'static) {
    // Without a connection `what` is dropped with the closure.
    let _ = LEFT.try_with(|left| left.borrow_mut().push(Box::new(what)));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Poll;

    use super::*;

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn what_is_left_goes_when_the_connection_waits_or_ends_and_not_before() {
        let (first, second) = (Arc::new(()), Arc::new(()));
        wait(serve(async {
            leave(Arc::clone(&first));
            assert_eq!(Arc::strong_count(&first), 2, "the answer is not written yet");
            tokio::task::yield_now().await;
            assert_eq!(Arc::strong_count(&first), 1, "the connection has waited");
            leave(Arc::clone(&second));
        }));
        assert_eq!(Arc::strong_count(&second), 1, "the connection has ended");
    }

    #[test]
    fn what_is_left_goes_while_a_connection_waits_for_long() {
        let left = Arc::new(());
        wait(async {
            let mut connection = pin!(serve(async {
                leave(Arc::clone(&left));
                std::future::pending::<()>().await;
            }));
            let waits = poll_fn(|context| Poll::Ready(connection.as_mut().poll(context).is_pending())).await;
            assert!(waits);
            assert_eq!(Arc::strong_count(&left), 1);
        });
    }

    #[test]
    fn where_there_is_no_connection_nothing_is_kept() {
        let left = Arc::new(());
        leave(Arc::clone(&left));
        assert_eq!(Arc::strong_count(&left), 1);
    }
}
