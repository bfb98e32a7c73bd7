-- Who does what only one may do, and until when.
CREATE TABLE IF NOT EXISTS retell_leases (
    name VARBINARY(255) NOT NULL,
    holder BINARY(16), -- NULL: given back
    fence BIGINT NOT NULL, -- grows by one with each change of holders
    ends_at DATETIME(6) NOT NULL, -- UTC
    PRIMARY KEY (name)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The fence of whoever moved the position last: nobody with a smaller one moves it again. MySQL has no `ADD COLUMN IF NOT EXISTS`, and this
-- must run a second time as well.
SET @retell_fence = IF(
    EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'retell_relays' AND column_name = 'fence'),
    'DO 0', 'ALTER TABLE retell_relays ADD COLUMN fence BIGINT NOT NULL DEFAULT 0');
PREPARE retell_fence FROM @retell_fence;
EXECUTE retell_fence;
DEALLOCATE PREPARE retell_fence;
