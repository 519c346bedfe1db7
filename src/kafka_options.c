/*-------------------------------------------------------------------------
 *
 * kafka_options.c
 *	  What may be said of a Kafka cluster or source by SQL, checked.
 *
 * Sessions never load librdkafka, so a value is looked at by the workers only,
 * which tell of a bad one in views stat_kafka_source and stat_kafka_sink.  Here
 * is decided what may be given at all: settings that only say how to reach and
 * use a cluster.  Those that load libraries, run programs, write files, print
 * secrets or break the bridge's promises are not among them.
 *
 * Secrets never come in by SQL, as statements are logged and seen by others: a
 * setting that is one must be "file:/path".  Workers read the file as the
 * server's operating-system user, and what is in it goes to the cluster, so
 * whoever names a file must be allowed to read the server's files.
 *
 * Who that is a SECURITY DEFINER function cannot tell.  The session's role is
 * somebody else as soon as code of one role runs in a session of another: a
 * superuser's ANALYZE, or autovacuum, runs functions of an index as the table's
 * owner.  So kafka_cluster_set runs as its caller (caller.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "caller.h"
#include "eval.h"
#include "kafka_fault.h"
#include "kafka_options.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(aud_kafka_cluster_set);
PG_FUNCTION_INFO_V1(aud_kafka_start);
PG_FUNCTION_INFO_V1(aud_kafka_set_origin);
PG_FUNCTION_INFO_V1(aud_kafka_is_fault_of_message);

static const AudKafkaOptionRule rules[] = {
	{"bootstrap.servers", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"broker.address.family", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"client.id", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"client.rack", AUD_KAFKA_PLAIN, AUD_KAFKA_CONSUMER},
	{"metadata.max.age.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"reconnect.backoff.max.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"reconnect.backoff.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"retry.backoff.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_PRODUCER},
	{"socket.connection.setup.timeout.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"socket.keepalive.enable", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"socket.nagle.disable", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"socket.timeout.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"topic.metadata.refresh.interval.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},

	{"security.protocol", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"sasl.mechanism", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"sasl.mechanisms", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"sasl.username", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"sasl.password", AUD_KAFKA_SECRET, AUD_KAFKA_BOTH},
	{"enable.ssl.certificate.verification", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"ssl.ca.location", AUD_KAFKA_PATH, AUD_KAFKA_BOTH},
	{"ssl.certificate.location", AUD_KAFKA_PATH, AUD_KAFKA_BOTH},
	{"ssl.cipher.suites", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"ssl.crl.location", AUD_KAFKA_PATH, AUD_KAFKA_BOTH},
	{"ssl.curves.list", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"ssl.endpoint.identification.algorithm", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"ssl.key.location", AUD_KAFKA_PATH, AUD_KAFKA_BOTH},
	{"ssl.key.password", AUD_KAFKA_SECRET, AUD_KAFKA_BOTH},
	{"ssl.keystore.location", AUD_KAFKA_PATH, AUD_KAFKA_BOTH},
	{"ssl.keystore.password", AUD_KAFKA_SECRET, AUD_KAFKA_BOTH},
	{"ssl.sigalgs.list", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},

	{"fetch.error.backoff.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_CONSUMER},
	{"fetch.max.bytes", AUD_KAFKA_PLAIN, AUD_KAFKA_CONSUMER},
	{"fetch.message.max.bytes", AUD_KAFKA_PLAIN, AUD_KAFKA_CONSUMER},
	{"fetch.min.bytes", AUD_KAFKA_PLAIN, AUD_KAFKA_CONSUMER},
	{"fetch.wait.max.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_CONSUMER},
	{"max.partition.fetch.bytes", AUD_KAFKA_PLAIN, AUD_KAFKA_CONSUMER},
	{"queued.max.messages.kbytes", AUD_KAFKA_PLAIN, AUD_KAFKA_CONSUMER},
	{"queued.min.messages", AUD_KAFKA_PLAIN, AUD_KAFKA_CONSUMER},
	{"receive.message.max.bytes", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},

	{"batch.num.messages", AUD_KAFKA_PLAIN, AUD_KAFKA_PRODUCER},
	{"batch.size", AUD_KAFKA_PLAIN, AUD_KAFKA_PRODUCER},
	{"compression.codec", AUD_KAFKA_PLAIN, AUD_KAFKA_PRODUCER},
	{"compression.level", AUD_KAFKA_PLAIN, AUD_KAFKA_PRODUCER},
	{"compression.type", AUD_KAFKA_PLAIN, AUD_KAFKA_PRODUCER},
	{"linger.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_PRODUCER},
	{"message.max.bytes", AUD_KAFKA_PLAIN, AUD_KAFKA_BOTH},
	{"queue.buffering.max.kbytes", AUD_KAFKA_PLAIN, AUD_KAFKA_PRODUCER},
	{"queue.buffering.max.messages", AUD_KAFKA_PLAIN, AUD_KAFKA_PRODUCER},
	{"request.timeout.ms", AUD_KAFKA_PLAIN, AUD_KAFKA_PRODUCER},
};

/* What is known of a setting; NULL: it may not be given. */
const AudKafkaOptionRule *
aud_kafka_option_rule(const char *name)
{
	for (size_t i = 0; i < lengthof(rules); i++)
		if (strcmp(rules[i].name, name) == 0)
			return &rules[i];
	return NULL;
}

/* Refuses a secret that is not in a file, without letting it into the log. */
static void
check_secret(const char *name, const char *value)
{
	if (strncmp(value, AUD_KAFKA_FILE_PREFIX "/", strlen(AUD_KAFKA_FILE_PREFIX "/")) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" must not be given by its value", name),
			 errhint("Write it into a file that only the server can read, and give \"file:/path/of/the/file\"."),
			 errhidestmt(true),
			 errhidecontext(true)));
}

/* Refuses a path to those who may not read the server's files. */
static void
check_file_access(const char *name)
{
	if (has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to name a file in option \"%s\"", name),
			 errhint("Only roles with privileges of \"pg_read_server_files\" may do that.")));
}

/* Refuses an option that is not allowed. */
static void
check_option(const char *name, const JsonbValue *value)
{
	const AudKafkaOptionRule *rule = aud_kafka_option_rule(name);
	char	   *text;

	if (rule == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" of a Kafka cluster is not allowed", name),
				 errhint("docs/kafka.md lists those that are.")));
	if (value->type != jbvString && (value->type == jbvNull || rule->kind != AUD_KAFKA_PLAIN))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("value of option \"%s\" must be a string", name)));
	if (rule->kind == AUD_KAFKA_PLAIN)
		return;
	text = pnstrdup(value->val.string.val, value->val.string.len);
	if (rule->kind == AUD_KAFKA_SECRET)
		check_secret(name, text);
	else if (text[0] != '/')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be an absolute path", name)));
	check_file_access(name);
}

/*
 * Refuses options of a cluster (NULL: null) that are not allowed, secrets that
 * are not in files, and files that the user may not read.
 */
static void
check_options(Jsonb *options)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;
	bool		has_servers = false;

	if (options == NULL || !JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a Kafka cluster must be an object")));
	it = JsonbIteratorInit(&options->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
		{
			Assert(name != NULL);	/* a key comes first */
			if (value.type == jbvBinary)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("value of option \"%s\" must be a string", name)));
			check_option(name, &value);
			has_servers |= strcmp(name, "bootstrap.servers") == 0;
		}
	}
	if (!has_servers)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"bootstrap.servers\" of a Kafka cluster must be given")));
}

/* kafka_cluster_set(name text, options jsonb): see the SQL definition. */
Datum
aud_kafka_cluster_set(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTOID, JSONBOID};
	NullableDatum args[] = {fcinfo->args[0], fcinfo->args[1]};

	check_options(PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1));
	(void) aud_call_as_owner(fcinfo, &plan, "SELECT audience.kafka_cluster_store($1, $2)",
							 lengthof(types), types, args);
	PG_RETURN_VOID();
}

/* kafka_start(start text) → bigint: see the SQL definition. */
Datum
aud_kafka_start(PG_FUNCTION_ARGS)
{
	text	   *start = PG_ARGISNULL(0) ? cstring_to_text("") : PG_GETARG_TEXT_PP(0);
	const char *word = VARDATA_ANY(start);
	int			len = VARSIZE_ANY_EXHDR(start);
	TimestampTz at;

	if (len == strlen("earliest") && memcmp(word, "earliest", len) == 0)
		PG_RETURN_INT64(-2);
	if (len == strlen("latest") && memcmp(word, "latest", len) == 0)
		PG_RETURN_INT64(-1);
	if (!aud_timestamp_parse(word, len, &at) ||
		at < (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid start of a source"),
				 errdetail("It must be \"earliest\", \"latest\" or a timestamp such as \"2026-11-20T09:38:00Z\".")));
	PG_RETURN_INT64((at + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY) / 1000);
}

/* kafka_set_origin(cluster, topic): see the SQL definition.  Ends with the transaction. */
Datum
aud_kafka_set_origin(PG_FUNCTION_ARGS)
{
	const char *origin = "";

	if (!PG_ARGISNULL(0) && !PG_ARGISNULL(1))
		origin = psprintf("%s/%s", text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	(void) set_config_option("audience.kafka_origin", origin, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	PG_RETURN_VOID();
}

/* kafka_is_fault_of_message(sqlstate, stream): see the SQL definition. */
Datum
aud_kafka_is_fault_of_message(PG_FUNCTION_ARGS)
{
	char	   *state = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *stream = text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (strlen(state) != 5)
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(aud_kafka_is_fault(MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]),
									  strcmp(stream, "segments") == 0));
}
