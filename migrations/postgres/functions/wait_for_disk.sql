-- If `wanted`, makes the transaction's commit wait for the disk even if the server's default is not to. Keeps a stricter setting.
-- PostgreSQL inlines the function.
CREATE OR REPLACE FUNCTION {schema}.wait_for_disk(wanted boolean) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN wanted AND current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
$$;
