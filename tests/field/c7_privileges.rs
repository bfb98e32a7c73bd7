//! C7. An up-to-date log opens without rights to change the schema.
