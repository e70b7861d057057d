import de.bwaldvogel.mongo.*;
import de.bwaldvogel.mongo.backend.*;
import de.bwaldvogel.mongo.backend.aggregation.Aggregation;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.h2.H2Collection;
import de.bwaldvogel.mongo.backend.h2.H2Database;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.exception.MongoServerError;
import de.bwaldvogel.mongo.oplog.Oplog;
import de.bwaldvogel.mongo.wire.bson.BsonDecoder;
import de.bwaldvogel.mongo.wire.bson.BsonEncoder;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.Channel;
import java.lang.management.*;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.util.*;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import java.util.function.Consumer;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.h2.mvstore.Cursor;
import org.h2.mvstore.*;
import org.h2.mvstore.type.BasicDataType;

/**
 * A MongoDB-wire server for one machine without a mongod: mongo-java-server on one H2 MVStore file.
 *
 * <p>Usage: {@code java -cp 'jars/mongo/*' EmbeddedMongo.java PORT FILE}. It listens on the loopback interface only,
 * prints one line when it is ready, and ends cleanly on SIGTERM. Exit status 1: the port or the file is taken, or the
 * store failed (disk full, I/O error); what was acknowledged is in the file.
 *
 * <p>Why so much more than a main: as it comes, mongo-java-server keeps documents and index keys in Java's
 * serialization, compares keys by serializing both, and commits once a second. Measured on 2 shared cores (ratios
 * count), 60,000 documents of 450 bytes with random UUIDs as `_id` in batches of 500, then 2,000 one by one; "lost":
 * acknowledged documents missing after kill -9 under load; the scan is a sort or a count over all, heap 160 MiB:
 *
 * <pre>
 *                                         batches    one by one   file      lost          scan
 * as it comes                             ~4,000/s   -            -         755 of 4,736  out of memory
 * commit before each acknowledgement       2,155/s   1.26 ms      1,222 MB  0             out of memory
 * + BSON pages, keys with an order         4,490/s   0.57 ms        657 MB  0             out of memory
 * + documents in order of insertion        6,763/s   0.54 ms        196 MB  0             2 s
 * + 16 keys a page, write buffer 16 MiB    7,025/s   0.55 ms         92 MB  0             2 s
 * the same, nothing else running          11,166/s   0.56 ms         92 MB  0 of 30,655   2 s, heap 128 MiB
 * </pre>
 *
 * The last line survived 12 kills and started in 0.6 s after each; one document is found by `_id` in 0.5 ms. 204,000
 * documents, 4,000 of them written alone, take 320 MB, and no more when idle. With -Xmx128m: 150 MiB (proportional).
 *
 * <p>Compaction rewrites as much as the write buffer holds, and all else waits: with 600,000 documents (740 MB) and 16
 * MiB the pipeline stopped for 300 to 600 ms every 3 s (10 requests a second, p99 543 ms). With 2 MiB it does not (p99
 * 52 ms); batches then go in at 9,400/s instead of 11,600, and 80,000 documents, 60,000 of them alone, take 470 MB
 * instead of 500. A lower fill rate (50, 70) stops the pauses, too, but then the file grows on.
 *
 * <p>Memory: the library collects a whole result before its first batch, and ended with 40,000 documents. Here results
 * are read as their client fetches them ({@link Results}); what must hold many documents (a large sort, a group) gets
 * an error when the heap is full ({@link Heap}); and clients are told to send small messages. With 261,000 documents,
 * all of them are read in 2.5 s, by 8 clients at once in 25 s.
 */
public final class EmbeddedMongo {
    /** pymongo 4.20 refuses a server below wire version 9 (MongoDB 4.4); mongo-java-server says 8. */
    private static final int WIRE_VERSION = 9;

    /**
     * How long a chunk without live data stays before its space is used again. The file grows by what is written in
     * that time. With 0, scans failed ("Chunk not found") when compaction took a chunk from under them; after a power
     * cut an older chunk must still be whole, and {@link #SYNC_MILLIS} has forced it to disk by then.
     */
    private static final int RETENTION_MILLIS = 10_000;

    private static final int SYNC_MILLIS = 1_000;

    /** A connection belongs to one of these threads and waits there for the others' commands; a scan takes seconds. */
    private static final int WORKERS = 32;

    /** Time for compaction on SIGTERM: enough to bring 128 MB to 60 MB. */
    private static final int COMPACT_MILLIS = 2_000;

    /** Heap that the documents of one reply take: some 1,000 answers. The client asks for the next ones. */
    private static final int REPLY_BYTES = 2 * 1024 * 1024;

    /**
     * What clients are told to send at most: they split batches accordingly and refuse larger documents. With MongoDB's
     * 16 and 48 MB, an insert of one document of 15.9 MB ended the server.
     */
    private static final int MAX_DOCUMENT_BYTES = 4 * 1024 * 1024;

    private static final int MAX_MESSAGE_BYTES = 8 * 1024 * 1024;

    /** Heap that one command's changes take before they are written. */
    private static final int MAX_UNCOMMITTED_BYTES = 8 * 1024 * 1024;

    /** Open results, at most: one more closes the least recently used one, and its client gets CursorNotFound. */
    private static final int MAX_CURSORS = 100;

    /** Where answers are stored by the sink: their `_id` is their UUID. */
    private static final String ANSWERS = "agile_data_science.flight_delay_classification_response";

    public static void main(String[] args) {
        if (args.length != 2) {
            System.err.println("usage: EmbeddedMongo PORT FILE");
            System.exit(2);
        }
        System.setProperty("slf4j.internal.verbosity", "ERROR"); // silent about the missing log library
        try {
            MVStore store = new MVStore.Builder().fileName(args[1])
                .keysPerPage(16) // a random key rewrites its page: small pages, little to rewrite
                .autoCommitBufferSize(2 * 1024) // KiB; the default of 1 MiB splits a batch of 500 into many commits
                .open();
            store.setRetentionTime(RETENTION_MILLIS);
            MongoServer server = new MongoServer(new Backend(store));
            server.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 1, WORKERS);
            Runtime.getRuntime().addShutdownHook(new Thread(server::shutdown));
            Executors.newSingleThreadScheduledExecutor()
                .scheduleWithFixedDelay(store::sync, SYNC_MILLIS, SYNC_MILLIS, TimeUnit.MILLISECONDS);
            System.out.println("EmbeddedMongo is ready on 127.0.0.1:" + args[0] + ", file " + args[1]);
        } catch (Exception error) {
            System.err.println("EmbeddedMongo cannot start on port " + args[0] + " with " + args[1] + ": " + error);
            System.exit(1); // the server's threads would keep the process alive
        }
    }

    /**
     * Commits a command's writes before the client gets its answer, so that kill -9 loses nothing acknowledged; and
     * what a client reads is committed, too: an answer seen once would else be gone after a crash, or a full disk.
     */
    private static final class Backend extends H2Backend {
        private static final Set<String> READS =
            Set.of("find", "getMore", "count", "distinct", "ismaster", "isMaster", "hello", "ping", "buildInfo");
        /** Held by the command that writes, until its writes are on disk. */
        private final ReadWriteLock uncommitted = new ReentrantReadWriteLock();
        private volatile boolean closing;

        Backend(MVStore store) {
            super(store);
            version(new MongoVersion() {
                @Override
                public List<Integer> getVersionArray() {
                    return List.of(4, 4, 0);
                }

                @Override
                public int getWireVersion() {
                    return WIRE_VERSION;
                }
            });
        }

        @Override
        public Document handleMessage(MongoMessage message) {
            if (message.getHeader().getTotalLength() > MAX_MESSAGE_BYTES + 16 * 1024) {
                throw new MongoServerError(10334, "BSONObjectTooLarge", "A message has at most 8 MiB");
            }
            Document request = message.getDocument();
            String command = request.keySet().iterator().next();
            if (command.equals("find") && !(request.get("batchSize") instanceof Number size && size.intValue() > 0)) {
                request.put("batchSize", Integer.MAX_VALUE); // 0 is for the library's own reads: a result without end
            }
            if (READS.contains(command) || command.equals("aggregate") && !writes(request.get("pipeline"))) {
                try {
                    return super.handleMessage(message);
                } catch (OutOfMemoryError error) {
                    throw Heap.exceeded();
                } finally { // what was read may be of a command that is not committed yet
                    uncommitted.readLock().lock();
                    uncommitted.readLock().unlock();
                    endIfFailed();
                }
            }
            uncommitted.writeLock().lock();
            try {
                return super.handleMessage(message);
            } catch (OutOfMemoryError error) { // a document may be there without its key in an index
                System.err.println("No memory for a command: " + command);
                Runtime.getRuntime().halt(1);
                throw error;
            } finally {
                try {
                    makeDurable(getMvStore());
                } finally {
                    endIfFailed(); // before those who wait may go on
                    uncommitted.writeLock().unlock();
                }
            }
        }

        @Override
        public Document handleCommand(Channel channel, String database, String command, Document query) {
            String known = command.equals("hello") ? "isMaster" : command;
            Document reply = super.handleCommand(channel, database, known, query);
            if (reply.containsKey("maxBsonObjectSize")) {
                reply.append("maxBsonObjectSize", MAX_DOCUMENT_BYTES).append("isWritablePrimary", true);
                reply.append("maxMessageSizeBytes", MAX_MESSAGE_BYTES);
            }
            return reply;
        }

        private static boolean writes(Object pipeline) {
            return String.valueOf(pipeline).matches("(?s).*\\$(out|merge)\\b.*");
        }

        private void endIfFailed() {
            if (getMvStore().isClosed() && !closing) { // by H2, because it failed: a new process must try again
                System.err.println("The store failed: " + getMvStore().getPanicException());
                Runtime.getRuntime().halt(1);
            }
        }

        @Override
        protected MongoDatabase openOrCreateDatabase(String name) {
            return new Database(name);
        }

        @Override
        public void close() {
            closing = true;
            getMvStore().close(COMPACT_MILLIS);
            super.close();
        }

        /** Opens its maps with the types below; the library leaves both to Java's serialization. */
        private final class Database extends H2Database { // inner: the superclass' constructor opens maps already
            Database(String name) {
                super(name, getMvStore(), getCursorRegistry());
            }

            @Override
            protected MongoCollection<Object> openOrCreateCollection(String name, CollectionOptions options) {
                String full = getFullCollectionNamespace(name);
                MVMap<Object, Document> data = getMvStore()
                    .openMap("databases." + full, new MVMap.Builder<Object, Document>().valueType(new DocumentType()));
                return new Documents(this, name, options, data, getMvStore().openMap("meta." + full), cursorRegistry);
            }

            /** Aggregations; the library computes the whole result first, and matches without an index. */
            @Override
            public Document handleCommand(
                    Channel channel, String command, Document query, DatabaseResolver databases, Oplog oplog) {
                MongoCollection<Object> collection =
                    command.equals("aggregate") ? resolveCollection(query.get(command).toString(), false) : null;
                if (collection == null) {
                    return super.handleCommand(channel, command, query, databases, oplog);
                }
                List<Document> stages = Aggregation.parse(query.get("pipeline"));
                Document first = stages.isEmpty() ? new Document() : stages.get(0);
                Stream<Document> documents;
                if (first.containsKey("$changeStream")) {
                    throw new MongoServerError(115, "CommandNotSupported", "The embedded server has no change streams");
                } else if (first.containsKey("$collStats")) {
                    documents = Stream.of(statistics(collection));
                    stages = stages.subList(1, stages.size());
                } else if (first.get("$match") instanceof Document filter) {
                    documents = collection.handleQueryAsStream(filter);
                } else if (first.get("$sample") instanceof Document sample && sample.get("size") instanceof Number n) {
                    documents = ((Documents) collection).sample(n.intValue()); // the library's may break its sort
                    stages = stages.subList(1, stages.size());
                } else {
                    documents = collection.queryAllAsStream();
                }
                Aggregation aggregation = Aggregation.fromPipeline(stages, databases, this, collection, oplog);
                aggregation.validate(query);
                Object size = query.get("cursor") instanceof Document cursor ? cursor.get("batchSize") : null;
                int batchSize = size instanceof Number number ? number.intValue() : 0;
                Results results =
                    new Results(aggregation.runStagesAsStream(documents).iterator(), 0, batchSize, cursorRegistry);
                Document reply = new Document("firstBatch", results.collectDocuments());
                reply.append("id", results.getCursorId()).append("ns", collection.getFullName());
                return new Document("cursor", reply).append("ok", 1.0);
            }

            private static Document statistics(MongoCollection<?> collection) {
                Document found = new Document("ns", collection.getFullName()).append("count", collection.count());
                return found.append("storageStats", collection.getStats());
            }

            private MVMap<KeyValue, Object> openIndex(String collection, String index) {
                return getMvStore().openMap(
                    getFullCollectionNamespace(collection) + "._index_" + index,
                    new MVMap.Builder<KeyValue, Object>().keyType(new KeyType()));
            }

            /** An answer is found by its UUID without one, and each further index costs a quarter of the inserts. */
            @Override
            protected void addIndex(Document index) {
                if (!ANSWERS.equals(index.get("ns")) || !((Document) index.get("key")).containsKey("UUID")) {
                    super.addIndex(index);
                }
            }

            @Override
            protected Index<Object> openOrCreateUniqueIndex(
                    String collection, String name, List<IndexKey> keys, boolean sparse) {
                openIndex(collection, name); // the library takes the map that is open
                return super.openOrCreateUniqueIndex(collection, name, keys, sparse);
            }

            @Override
            protected Index<Object> openOrCreateSecondaryIndex(
                    String collection, String name, List<IndexKey> keys, boolean sparse) {
                return new SecondaryIndex(openIndex(collection, name), name, keys, sparse);
            }
        }
    }

    /** A collection in order of insertion: a batch with random UUIDs fills a few new pages and rewrites no old ones. */
    private static final class Documents extends H2Collection {
        private final MVMap<Object, Document> data;
        private volatile long next;
        private int uncommittedBytes;

        Documents(
                MongoDatabase database, String name, CollectionOptions options,
                MVMap<Object, Document> data, MVMap<String, Object> meta, CursorRegistry cursors) {
            super(database, name, options, data, meta, cursors);
            this.data = data;
            next = data.isEmpty() ? 0 : (Long) data.lastKey() + 1;
        }

        @Override
        protected Object addDocumentInternal(Document document) {
            commitBehind(document);
            data.put(next, document);
            return next++;
        }

        @Override
        protected void handleUpdate(Object position, Document oldDocument, Document newDocument) {
            super.handleUpdate(position, oldDocument, newDocument);
            commitBehind(newDocument);
        }

        @Override
        public void removeDocument(Document document) {
            super.removeDocument(document);
            commitBehind(document);
        }

        /** H2 writes in the background: the changes of one command must not fill the heap. */
        private void commitBehind(Document changed) {
            uncommittedBytes += heapBytes(changed);
            if (uncommittedBytes > MAX_UNCOMMITTED_BYTES) {
                uncommittedBytes = 0;
                makeDurable(data.getStore());
            }
        }

        /** For aggregations, so also for count_documents: the library would first hold all documents in memory. */
        @Override
        public Stream<Document> queryAllAsStream() {
            return scan(0, false).peek(new Heap());
        }

        Stream<Document> sample(int size) {
            if (size >= data.sizeAsLong()) {
                return queryAllAsStream();
            }
            Stream<Long> places = new Random().longs(0, data.sizeAsLong()).distinct().limit(size).boxed();
            return places.map(place -> data.get(data.getKey(place))).filter(Objects::nonNull).peek(new Heap());
        }

        private Stream<Document> scan(long from, boolean newestFirst) {
            Iterable<Document> scan = () -> new Scan(data, from, newestFirst ? 0 : next - 1, newestFirst);
            return StreamSupport.stream(scan.spliterator(), false);
        }

        /** By the index also where the query has more fields than `_id`. */
        @Override
        protected QueryResult queryDocuments(
                Document query, Document orderBy, int skip, int limit, int batchSize, Document fields) {
            String field = !query.containsKey("_id") && getFullName().equals(ANSWERS) ? "UUID" : "_id";
            Document byId = new Document("_id", query.get(field));
            for (Index<Object> index : getIndexes()) {
                if (byId.get("_id") != null && index.canHandle(byId)) {
                    List<Object> positions = new ArrayList<>();
                    index.getPositions(byId).forEach(positions::add);
                    positions.sort(null); // of many, those in one page are next to each other
                    Document rest = query.clone();
                    if (query.get(field) instanceof Document) { // $in: the matcher would go through it each time
                        rest.remove(field);
                    }
                    return matchDocuments(rest, positions, orderBy, skip, limit, batchSize, fields);
                }
            }
            return super.queryDocuments(query, orderBy, skip, limit, batchSize, fields);
        }

        /** Newest first by `$natural` reads from the end; what a page skips is not read. */
        @Override
        protected QueryResult matchDocuments(
                Document query, Document orderBy, int skip, int limit, int batchSize, Document fields) {
            boolean newestFirst = isNaturalDescending(orderBy);
            Comparator<Document> order = newestFirst ? null : deriveComparator(orderBy);
            boolean page = order == null && query.isEmpty() && skip > 0;
            long from = newestFirst ? next - 1 : 0;
            if (page) {
                Long key = (Long) data.getKey(newestFirst ? data.sizeAsLong() - 1 - skip : skip);
                if (key == null) {
                    return new QueryResult();
                }
                from = key;
            }
            Stream<Document> found = scan(from, newestFirst);
            return matchDocumentsFromStream(query, found, page ? 0 : skip, limit, batchSize, order, fields);
        }

        /** Reads as the result is used. A sort with a limit holds no more documents than that. */
        @Override
        protected QueryResult matchDocumentsFromStream(
                Document query, Stream<Document> documents, int skip, int limit, int batchSize,
                Comparator<Document> order, Document fields) {
            Stream<Document> found = documents // null: deleted since its position was found
                .filter(document -> document != null && documentMatchesQuery(document, query));
            if (order != null || batchSize == 0) {
                found = found.peek(new Heap());
            }
            if (order != null) {
                found = limit > 0 ? first(found, order, (long) skip + limit) : found.sorted(order);
            }
            found = found.skip(skip);
            if (limit > 0) {
                found = found.limit(limit);
            }
            if (fields != null && !fields.isEmpty()) { // by the library, whose projection is hidden
                Document all = new Document();
                found = found.map(document -> super.matchDocumentsFromStream(
                    all, Stream.of(document), 0, 0, 0, null, fields).iterator().next());
            }
            if (batchSize > 0) {
                return new Results(found.iterator(), limit, batchSize, cursorRegistry);
            }
            // An update changes the document that it gets here, while others read the stored one.
            return new QueryResult(found.map(Document::clone)::iterator);
        }

        private static Stream<Document> first(Stream<Document> documents, Comparator<Document> order, long count) {
            PriorityQueue<Document> first = new PriorityQueue<>(order.reversed());
            documents.forEach(document -> {
                first.add(document);
                if (first.size() > count) {
                    first.poll();
                }
            });
            return first.stream().sorted(order);
        }

        @Override
        public Document handleDistinct(Document query) {
            Document values = super.handleDistinct(query);
            Heap.checkReply(values);
            return values;
        }
    }

    /**
     * Documents from one position to another, as they are when they are reached. H2's cursor reads the version that it
     * began with; where compaction has taken that away ("Chunk not found"), it goes on with the present one.
     */
    private static final class Scan implements Iterator<Document> {
        private static final int MAX_TRIES = 10;
        private final MVMap<Object, Document> data;
        private final long to;
        private final boolean newestFirst;
        private long from;
        private Cursor<Object, Document> cursor;

        Scan(MVMap<Object, Document> data, long from, long to, boolean newestFirst) {
            this.data = data;
            this.from = from;
            this.to = to;
            this.newestFirst = newestFirst;
        }

        @Override
        public boolean hasNext() {
            if (newestFirst ? from < to : from > to) {
                return false;
            }
            for (int tries = 1; ; tries++) {
                try {
                    if (cursor == null) {
                        cursor = data.cursor(from, to, newestFirst);
                    }
                    return cursor.hasNext();
                } catch (MVStoreException error) {
                    if (tries == MAX_TRIES) {
                        throw error;
                    }
                    cursor = null;
                }
            }
        }

        @Override
        public Document next() {
            if (!hasNext()) {
                throw new NoSuchElementException();
            }
            from = (Long) cursor.next() + (newestFirst ? -1 : 1);
            return cursor.getValue();
        }
    }

    /** A result that is read as its client fetches it; the library's cursors hold all of it. */
    private static final class Results extends QueryResult implements de.bwaldvogel.mongo.backend.Cursor {
        /** When each was used, the least recently used first. */
        private static final Map<Long, Long> USED = Collections.synchronizedMap(new LinkedHashMap<>(16, 0.75f, true));
        private static final long IDLE_NANOS = TimeUnit.SECONDS.toNanos(1);
        private static volatile CursorRegistry registry; // the library's, one a process
        private final Iterator<Document> documents;
        private final int batchSize;
        private final long id;
        private int left;
        private boolean done;

        /** A limit or batch size of 0: none. */
        Results(Iterator<Document> documents, int limit, int batchSize, CursorRegistry cursors) {
            super(List.of());
            this.documents = documents;
            this.batchSize = batchSize;
            left = limit;
            registry = cursors;
            id = cursors.generateCursorId();
        }

        @Override
        public Iterator<Document> iterator() {
            return collectDocuments().iterator();
        }

        @Override
        public List<Document> collectDocuments() {
            List<Document> batch = takeDocuments(batchSize);
            if (!done) {
                registry.add(this);
                closeIdle(MAX_CURSORS, 0);
            }
            return batch;
        }

        @Override
        public synchronized List<Document> takeDocuments(int size) {
            List<Document> batch = new ArrayList<>();
            for (long bytes = 0; !done && bytes < REPLY_BYTES && (size == 0 || batch.size() < size); ) {
                if (!documents.hasNext()) {
                    done = true;
                    break;
                }
                Document document = documents.next();
                bytes += Heap.checkReply(document);
                batch.add(document);
                done = --left == 0;
            }
            if (done) {
                USED.remove(id);
            } else {
                USED.put(id, System.nanoTime());
            }
            return batch;
        }

        /** Closes the least recently used ones until `keep` are left, but none that was used within `nanos`. */
        static void closeIdle(int keep, long nanos) {
            synchronized (USED) {
                Iterator<Map.Entry<Long, Long>> eldest = USED.entrySet().iterator();
                while (USED.size() > keep && eldest.hasNext()) {
                    Map.Entry<Long, Long> cursor = eldest.next();
                    if (System.nanoTime() - cursor.getValue() >= nanos) {
                        registry.remove((long) cursor.getKey());
                        eldest.remove();
                    }
                }
            }
        }

        @Override
        public long getId() {
            return id;
        }

        @Override
        public long getCursorId() {
            return done ? 0 : id;
        }

        @Override
        public boolean isEmpty() {
            return done;
        }
    }

    /**
     * Sees the documents of a stream, and refuses the next one when the heap is full of what is in use: of a sort or a
     * group over too many. What only passes through is garbage, and does not count.
     */
    private static final class Heap implements Consumer<Document> {
        private static final int STEP_BYTES = 1024 * 1024;
        private static final MemoryPoolMXBean OLD = ManagementFactory.getMemoryPoolMXBeans().stream()
            .filter(pool -> pool.getType() == MemoryType.HEAP && pool.isUsageThresholdSupported()).findFirst().get();
        private static final long LIMIT_BYTES = OLD.getUsage().getMax() / 4 * 3;

        private long bytes;

        @Override
        public void accept(Document document) {
            bytes += heapBytes(document);
            if (bytes > STEP_BYTES) {
                bytes = 0;
                if (isFull() && isStillFull()) {
                    throw exceeded();
                }
            }
        }

        /** As the last collection left it. */
        private static boolean isFull() {
            return OLD.getCollectionUsage().getUsed() > LIMIT_BYTES;
        }

        private static synchronized boolean isStillFull() {
            System.gc();
            if (isFull()) {
                Results.closeIdle(0, Results.IDLE_NANOS);
                System.gc();
            }
            return isFull();
        }

        static MongoServerError exceeded() {
            return new MongoServerError(146, "ExceededMemoryLimit", "This needs more memory than the embedded server "
                + "has: add a limit or a filter, or use a MongoDB of your own (MONGO_URI)");
        }

        /** The heap that the document takes; raises an error where no reply can hold it. */
        static int checkReply(Document document) {
            int bytes = heapBytes(document);
            if (bytes > MAX_MESSAGE_BYTES && bsonOf(document).readableBytes() > MAX_MESSAGE_BYTES) {
                throw new MongoServerError(10334, "BSONObjectTooLarge", "The result has a value of more than 8 MiB");
            }
            return bytes;
        }
    }

    /**
     * An index without uniqueness, of which the library has none: finds documents by equality in one field. Its keys
     * end with the document's `_id`, which makes them unique.
     */
    private static final class SecondaryIndex extends AbstractUniqueIndex<Object> {
        private final MVMap<KeyValue, Object> positions;
        private final String field;

        SecondaryIndex(MVMap<KeyValue, Object> positions, String name, List<IndexKey> keys, boolean sparse) {
            super(name, withId(keys), sparse);
            this.positions = positions;
            this.field = keys.get(0).getKey();
        }

        private static List<IndexKey> withId(List<IndexKey> keys) {
            List<IndexKey> all = new ArrayList<>(keys);
            all.add(new IndexKey("_id", true));
            return all;
        }

        @Override
        public synchronized boolean canHandle(Document query) {
            return query.get(field) instanceof String;
        }

        @Override
        public synchronized Iterable<Object> getPositions(Document query) {
            Object wanted = query.get(field);
            List<Object> found = new ArrayList<>();
            Cursor<KeyValue, Object> cursor = positions.cursor(new KeyValue(wanted)); // sorts before all longer keys
            while (cursor.hasNext() && wanted.equals(cursor.next().get(0))) {
                found.add(cursor.getValue());
            }
            return found; // the caller applies the rest of the query
        }

        @Override
        protected boolean putKeyPosition(KeyValue key, Object position) {
            return positions.putIfAbsent(key, position) == null;
        }

        @Override
        protected Object removeDocument(KeyValue key) {
            return positions.remove(key);
        }

        @Override
        protected Object getPosition(KeyValue key) {
            return positions.get(key);
        }

        @Override
        protected Iterable<Map.Entry<KeyValue, Object>> getIterable() {
            return positions.entrySet();
        }

        @Override
        public boolean isUnique() {
            return false;
        }

        @Override
        public long getCount() {
            return positions.sizeAsLong();
        }

        @Override
        public long getDataSize() {
            return 0;
        }
    }

    private static final class DocumentType extends BasicDataType<Document> {
        @Override
        public int getMemory(Document document) {
            return heapBytes(document);
        }

        @Override
        public void write(WriteBuffer out, Document document) {
            encode(document, out);
        }

        @Override
        public Document read(ByteBuffer in) {
            return decode(in);
        }

        @Override
        public Document[] createStorage(int size) {
            return new Document[size];
        }
    }

    /** Keys of an index. The library's have no order, so H2 would serialize both for each comparison. */
    private static final class KeyType extends BasicDataType<KeyValue> {
        private static final ValueComparator ORDER = ValueComparator.ascWithoutListHandling();

        @Override
        public int compare(KeyValue left, KeyValue right) {
            for (int i = 0; i < Math.min(left.size(), right.size()); i++) {
                int order = ORDER.compare(left.get(i), right.get(i));
                if (order != 0) {
                    return order;
                }
            }
            return Integer.compare(left.size(), right.size());
        }

        @Override
        public int getMemory(KeyValue key) {
            return heapBytes(key.stream().toList());
        }

        @Override
        public void write(WriteBuffer out, KeyValue key) {
            encode(Map.of("", new ArrayList<>(key.stream().toList())), out);
        }

        @Override
        public KeyValue read(ByteBuffer in) {
            return new KeyValue((Collection<?>) decode(in).get(""));
        }

        @Override
        public KeyValue[] createStorage(int size) {
            return new KeyValue[size];
        }
    }

    private static void makeDurable(MVStore store) {
        if (!store.isClosed()) {
            store.commit(); // hands over to H2's writer threads,
            store.executeFilestoreOperation(() -> { }); // and this waits for them
        }
    }

    private static void encode(Map<String, ?> document, WriteBuffer out) {
        ByteBuf bson = bsonOf(document);
        out.putVarInt(bson.readableBytes()).put(bson.nioBuffer());
    }

    private static ByteBuf bsonOf(Map<String, ?> document) {
        ByteBuf bson = Unpooled.buffer(512);
        BsonEncoder.encodeDocument(document, bson);
        return bson;
    }

    private static Document decode(ByteBuffer in) {
        byte[] bson = new byte[DataUtils.readVarInt(in)];
        in.get(bson);
        return BsonDecoder.decodeBson(Unpooled.wrappedBuffer(bson));
    }

    /** About what a value takes once decoded; H2 bounds its cache and its pages by it. */
    private static int heapBytes(Object value) {
        int bytes = 48;
        if (value instanceof Map<?, ?> map) {
            for (Map.Entry<?, ?> entry : map.entrySet()) {
                bytes += 104 + heapBytes(entry.getValue());
            }
        } else if (value instanceof Collection<?> list) {
            for (Object item : list) {
                bytes += heapBytes(item);
            }
        } else if (value instanceof String text) {
            bytes += text.length();
        }
        return bytes;
    }
}
