//! A7. A view whose state has changed its shape is refused at the start; one unreadable row is no outage.
