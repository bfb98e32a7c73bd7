-- A plan is made once a session, and a table may have been empty then: until it is analyzed, which may be a minute later, a plan that reads
-- all of it stays. What an append looks up it knows the keys of, so it joins key by key, whatever the planner believes.
ALTER FUNCTION {schema}.append SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off;
ALTER FUNCTION {schema}.append_claiming SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off;
