//! Decodes stored events.

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::event::{DecodeError, Envelope, Event, RecordedEvent, decode_not_one, decode_stored};

impl RecordedEvent {
    /// Decodes the payload and copies the other fields.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownEventType`], [`ErrorKind::UnknownSchema`] or [`ErrorKind::Undecodable`], each with stream and version;
    /// [`ErrorKind::NotOneEvent`] if the event's name is [retired](Event::RETIRED), or if an upcaster splits it.
    pub fn decode<E: Event>(&self) -> Result<Envelope<E>> {
        let event = decode_stored(self.stored()).map_err(|error| self.undecodable(error))?;
        Ok(self.envelope(event))
    }

    /// Decodes the payload and consumes the event. Cheaper than [`decode`](Self::decode), which copies the other fields.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn into_envelope<E: Event>(self) -> Result<Envelope<E>> {
        let event = decode_stored(self.stored()).map_err(|error| self.undecodable(error))?;
        Ok(self.with_event(event))
    }

    /// Decodes an event that may be none for `E`, because its name is [retired](Event::RETIRED), or several, because an upcaster splits it.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), without [`ErrorKind::NotOneEvent`].
    ///
    /// # Examples
    /// ```
    /// use retell::prelude::*;
    ///
    /// #[derive(Event)]
    /// #[event(retired("shoe.returned"))]
    /// enum ShoeEvent {
    ///     #[event("shoe.sold")]
    ///     Sold,
    /// }
    ///
    /// /// An older release had this event.
    /// #[derive(Event)]
    /// #[event("shoe.returned")]
    /// struct Returned;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let log = MemoryStore::new();
    /// log.append_events(("shoe", "1"), ExpectedVersion::NoStream, [Returned]).await?;
    /// let recorded = log.read_stream(&StreamId::parse("shoe", "1")?, Version::ZERO, 1).await?;
    /// assert_eq!(recorded[0].decode_all::<ShoeEvent>()?.len(), 0);
    /// assert_eq!(recorded[0].decode_all::<Returned>()?.len(), 1);
    /// # Ok::<(), BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn decode_all<E: Event>(&self) -> Result<Vec<Envelope<E>>> {
        let mut envelopes = Vec::with_capacity(1);
        self.decode_into(&mut envelopes)?;
        Ok(envelopes)
    }

    /// Adds to `envelopes` what [`decode_all`](Self::decode_all) returns.
    pub(crate) fn decode_into<E: Event>(&self, envelopes: &mut Vec<Envelope<E>>) -> Result<()> {
        match decode_stored(self.stored()) {
            Ok(event) => envelopes.push(self.envelope(event)),
            Err(DecodeError::NotOne) => envelopes.extend(self.envelopes()?),
            Err(error) => return Err(self.undecodable(error)),
        }
        Ok(())
    }

    /// Calls `each` with what [`decode_all`](Self::decode_all) returns. Cheaper for one event, since it moves the other fields.
    pub(crate) fn into_each<E: Event>(self, mut each: impl FnMut(Envelope<E>) -> Result<()>) -> Result<()> {
        match decode_stored(self.stored()) {
            Ok(event) => each(self.with_event(event)),
            Err(DecodeError::NotOne) => self.envelopes()?.into_iter().try_for_each(each),
            Err(error) => Err(self.undecodable(error)),
        }
    }

    #[cold]
    fn envelopes<E: Event>(&self) -> Result<Vec<Envelope<E>>> {
        let events = decode_not_one(self.stored()).map_err(|error| self.undecodable(error))?;
        Ok((0..).zip(events).map(|(part, event)| Envelope { part, ..self.envelope(event) }).collect())
    }

    fn envelope<E>(&self, event: E) -> Envelope<E> {
        Envelope {
            position: self.position,
            stream: self.stream.clone(),
            version: self.version,
            recorded_at: self.recorded_at,
            id: self.event.id,
            part: 0,
            metadata: self.event.metadata.clone(),
            event,
        }
    }

    fn with_event<E>(self, event: E) -> Envelope<E> {
        Envelope {
            position: self.position,
            stream: self.stream,
            version: self.version,
            recorded_at: self.recorded_at,
            id: self.event.id,
            part: 0,
            metadata: self.event.metadata,
            event,
        }
    }

    #[cold]
    fn undecodable(&self, error: DecodeError) -> Error {
        error.at(&self.stream, self.version, &self.event.event_type)
    }
}
