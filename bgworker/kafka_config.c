/*-------------------------------------------------------------------------
 *
 * kafka_config.c
 *	  How Kafka clusters are reached: their options, with the secrets that stand
 *	  in files.
 *
 * A file with a secret holds it in its first line.  It must not be open to
 * others: who can read it has the secret, who can write it decides whom we
 * trust.  It is read whenever the configuration is, so a new secret takes a
 * reload, and nothing else.
 *
 * Secrets are in the memory of the workers that need them, and nowhere else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_type_d.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "kafka_config.h"
#include "store.h"
#include "worker_frame.h"

/* of a secret, in bytes */
#define SECRET_MAX	4096

/* A column of a row of the last query as text, in mcxt; NULL where it is null. */
char *
aud_kafka_cell(int row, int column, MemoryContext mcxt)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return value == NULL ? NULL : MemoryContextStrdup(mcxt, value);
}

/* An integer column, of 4 or 8 bytes. */
int64
aud_kafka_cell_int(int row, int column, int64 otherwise)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);

	if (isnull)
		return otherwise;
	return SPI_gettypeid(SPI_tuptable->tupdesc, column) == INT4OID ? DatumGetInt32(value) : DatumGetInt64(value);
}

/* The secret in a file; NULL: *problem says why there is none. */
static char *
read_secret(const char *path, char **problem, MemoryContext mcxt)
{
	char		content[SECRET_MAX + 1];
	struct stat info;
	char	   *end;
	int			len;
	/* not to wait for who might write into what is no file */
	int			fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK);

	if (fd < 0)
	{
		*problem = psprintf("could not open file \"%s\": %m", path);
		return NULL;
	}
	if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
	{
		CloseTransientFile(fd);
		*problem = psprintf("\"%s\" is not a file", path);
		return NULL;
	}
	if (info.st_mode & (S_IRWXO | S_IWGRP | S_IXGRP))
	{
		CloseTransientFile(fd);
		*problem = psprintf("file \"%s\" must be open to nobody but its owner and, for reading, its group (chmod 0600 or 0640)", path);
		return NULL;
	}
	len = read(fd, content, SECRET_MAX);
	CloseTransientFile(fd);
	if (len < 0)
	{
		*problem = psprintf("could not read file \"%s\": %m", path);
		return NULL;
	}
	content[len] = '\0';
	end = strpbrk(content, "\r\n");
	if (end == NULL && len == SECRET_MAX)
	{
		explicit_bzero(content, sizeof(content));
		*problem = psprintf("the first line of file \"%s\" is too long", path);
		return NULL;
	}
	if (end != NULL)
		*end = '\0';
	if (content[0] == '\0')
	{
		*problem = psprintf("file \"%s\" is empty", path);
		return NULL;
	}
	end = MemoryContextStrdup(mcxt, content);
	explicit_bzero(content, sizeof(content));
	return end;
}

/* Adds an option to a cluster, if it is for this use. */
static void
add_option(AudKafkaCluster *cluster, char *name, char *value, AudKafkaOptionUse use, MemoryContext mcxt)
{
	const AudKafkaOptionRule *rule = aud_kafka_option_rule(name);
	AudKafkaOption *option = &cluster->options[cluster->noptions];
	char	   *problem = NULL;

	/* a table may hold what a later version does not allow any more */
	if (rule == NULL || value == NULL || (rule->use != AUD_KAFKA_BOTH && rule->use != use))
		return;
	option->name = name;
	option->value = value;
	option->secret = rule->kind == AUD_KAFKA_SECRET;
	if (option->secret)
	{
		if (strncmp(value, AUD_KAFKA_FILE_PREFIX, strlen(AUD_KAFKA_FILE_PREFIX)) != 0)
			return;
		option->value = read_secret(value + strlen(AUD_KAFKA_FILE_PREFIX), &problem, mcxt);
	}
	if (option->value == NULL)
		cluster->problem = MemoryContextStrdup(mcxt, problem);
	else
		cluster->noptions++;
}

/* Reads a cluster into mcxt.  In a transaction with SPI. */
AudKafkaCluster *
aud_kafka_read_cluster(const char *name, AudKafkaOptionUse use, MemoryContext mcxt)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTOID};
	AudKafkaCluster *cluster = MemoryContextAllocZero(mcxt, sizeof(AudKafkaCluster));
	Datum		value = CStringGetTextDatum(name);

	cluster->name = MemoryContextStrdup(mcxt, name);
	if (SPI_execute_plan(aud_store_plan(&plan, "SELECT e.key, e.value FROM audience.kafka_clusters c, "
										"pg_catalog.jsonb_each_text(c.options) e WHERE c.name = $1 ORDER BY e.key COLLATE \"C\"",
										lengthof(types), types, 0),
						 &value, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read cluster \"%s\"", name);
	cluster->options = MemoryContextAllocZero(mcxt, (SPI_processed + 1) * sizeof(AudKafkaOption));
	if (SPI_processed == 0)
		cluster->problem = MemoryContextStrdup(mcxt, "the cluster is not defined");
	for (uint64 i = 0; i < SPI_processed; i++)
		add_option(cluster, aud_kafka_cell(i, 1, mcxt), aud_kafka_cell(i, 2, mcxt), use, mcxt);
	return cluster;
}

/* Are two texts, either of which may be NULL, the same? */
static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* Would clients of these be the same? */
bool
aud_kafka_same_cluster(const AudKafkaCluster *a, const AudKafkaCluster *b)
{
	if (strcmp(a->name, b->name) != 0 || a->noptions != b->noptions || !same_text(a->problem, b->problem))
		return false;
	for (int i = 0; i < a->noptions; i++)
		if (strcmp(a->options[i].name, b->options[i].name) != 0 ||
			strcmp(a->options[i].value, b->options[i].value) != 0)
			return false;
	return true;
}

/* A copy in mcxt. */
AudKafkaCluster *
aud_kafka_copy_cluster(const AudKafkaCluster *cluster, MemoryContext mcxt)
{
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	AudKafkaCluster *copy = palloc0(sizeof(AudKafkaCluster));

	copy->name = pstrdup(cluster->name);
	copy->problem = cluster->problem ? pstrdup(cluster->problem) : NULL;
	copy->noptions = cluster->noptions;
	copy->options = palloc0((cluster->noptions + 1) * sizeof(AudKafkaOption));
	for (int i = 0; i < cluster->noptions; i++)
	{
		copy->options[i].name = pstrdup(cluster->options[i].name);
		copy->options[i].value = pstrdup(cluster->options[i].value);
		copy->options[i].secret = cluster->options[i].secret;
	}
	MemoryContextSwitchTo(old);
	return copy;
}
