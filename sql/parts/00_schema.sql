\echo Use "CREATE EXTENSION audience_manager" to load this file. \quit

COMMENT ON SCHEMA audience IS 'audience_manager: events, traits, rules, segments and memberships';
