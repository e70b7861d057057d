import de.bwaldvogel.mongo.*;
import de.bwaldvogel.mongo.backend.*;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.h2.H2Collection;
import de.bwaldvogel.mongo.backend.h2.H2Database;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.exception.MongoServerError;
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
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.IntFunction;
import java.util.stream.Stream;
import org.h2.mvstore.*;
import org.h2.mvstore.type.BasicDataType;

/**
 * A MongoDB-wire server for one machine without a mongod: mongo-java-server on one H2 MVStore file.
 *
 * <p>Usage: {@code java -cp 'jars/embedded-mongo:jars/mongo/*' EmbeddedMongo PORT FILE}. It listens on the loopback
 * interface only, prints one line when it is ready, and ends cleanly on SIGTERM. Exit status 1: the port or the file is
 * taken, or the store failed (disk full, I/O error); what was acknowledged is in the file.
 *
 * <p>As it comes, mongo-java-server keeps documents and index keys in Java's serialization, compares keys by serializing
 * both, commits once a second, and collects a whole result before its first batch. docs/architecture.md, "The embedded
 * MongoDB", has the measurements, and what clients may expect.
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
            if (READS.contains(command) || command.equals("aggregate") && !has(Set.of("$out", "$merge"), request.get("pipeline"))) {
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
            if (has(Set.of("$changeStream", "$sample"), query.get("pipeline"))) { // the library's $sample breaks its own sort
                throw new MongoServerError(115, "CommandNotSupported", "There are no change streams and no $sample here");
            }
            String known = command.equals("hello") ? "isMaster" : command;
            Document reply = super.handleCommand(channel, database, known, query);
            if (reply.containsKey("maxBsonObjectSize")) {
                reply.append("maxBsonObjectSize", MAX_DOCUMENT_BYTES).append("isWritablePrimary", true);
                reply.append("maxMessageSizeBytes", MAX_MESSAGE_BYTES);
            }
            if (heapBytes(reply) > MAX_MESSAGE_BYTES && bsonOf(reply).readableBytes() > MAX_MESSAGE_BYTES) {
                throw new MongoServerError(10334, "BSONObjectTooLarge", "A reply has at most 8 MiB");
            }
            return reply;
        }

        private static boolean has(Set<String> stages, Object part) {
            return part instanceof Collection<?> list && list.stream().anyMatch(item -> has(stages, item))
                || part instanceof Map<?, ?> map
                    && (!Collections.disjoint(stages, map.keySet()) || has(stages, map.values()));
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
                    .openMap("databases." + full, new MVMap.Builder<Object, Document>().valueType(DOCUMENTS));
                return new Documents(this, name, options, data, getMvStore().openMap("meta." + full), cursorRegistry);
            }

            private MVMap<KeyValue, Object> openIndex(String collection, String index) {
                return getMvStore().openMap(
                    getFullCollectionNamespace(collection) + "._index_" + index,
                    new MVMap.Builder<KeyValue, Object>().keyType(KEYS));
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

            /** The library has none without uniqueness; the documents' `_id` makes its keys unique. */
            @Override
            protected Index<Object> openOrCreateSecondaryIndex(
                    String collection, String name, List<IndexKey> keys, boolean sparse) {
                List<IndexKey> unique = new ArrayList<>(keys);
                unique.add(new IndexKey("_id", true));
                return openOrCreateUniqueIndex(collection, name, unique, sparse);
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
            return scan(false).peek(new Heap());
        }

        /**
         * The documents that are there now, each as it is when it is reached. H2's own cursor reads the version that it
         * began with, and fails ("Chunk not found") where compaction has taken that away.
         */
        private Stream<Document> scan(boolean newestFirst) {
            long end = next;
            return Stream.iterate(
                    newestFirst ? data.lowerKey(end) : data.firstKey(), key -> key != null && (Long) key < end,
                    newestFirst ? data::lowerKey : data::higherKey)
                .map(data::get).filter(Objects::nonNull); // null: deleted since
        }

        /** By an index also where the query has more fields than that. */
        @Override
        protected QueryResult queryDocuments(
                Document query, Document orderBy, int skip, int limit, int batchSize, Document fields) {
            String field = !query.containsKey("_id") && getFullName().equals(ANSWERS) ? "UUID" : "_id";
            Document byId = new Document("_id", query.get(field));
            for (Index<Object> index : getIndexes()) {
                Document rest = query.clone();
                List<Object> positions = new ArrayList<>();
                if (byId.get("_id") != null && index.canHandle(byId)) {
                    index.getPositions(byId).forEach(positions::add);
                    if (query.get(field) instanceof Document) { // $in: the matcher would go through it each time
                        rest.remove(field);
                    }
                } else if (!index.canHandle(query)
                        && query.get(index.getKeys().get(0).getKey()) instanceof String wanted) {
                    var keys = data.getStore().<KeyValue, Object>openMap(getFullName() + "._index_" + index.getName())
                        .cursor(new KeyValue(wanted)); // sorts before all longer keys
                    while (keys.hasNext() && wanted.equals(keys.next().get(0))) {
                        positions.add(keys.getValue());
                    }
                } else {
                    continue;
                }
                positions.sort(null); // of many, those in one page are next to each other
                return matchDocuments(rest, positions, orderBy, skip, limit, batchSize, fields);
            }
            return super.queryDocuments(query, orderBy, skip, limit, batchSize, fields);
        }

        /** Newest first by `$natural` reads from the end. */
        @Override
        protected QueryResult matchDocuments(
                Document query, Document orderBy, int skip, int limit, int batchSize, Document fields) {
            boolean newestFirst = isNaturalDescending(orderBy);
            Comparator<Document> order = newestFirst ? null : deriveComparator(orderBy);
            return matchDocumentsFromStream(query, scan(newestFirst), skip, limit, batchSize, order, fields);
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
                return Results.open(found.iterator(), batchSize, cursorRegistry);
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
    }

    /** A result that is read as its client fetches it; the library's cursors hold all of it. */
    private static final class Results extends AbstractCursor {
        /** The open ones, the least recently used first. */
        private static final Map<Long, Results> OPEN = new LinkedHashMap<>(16, 0.75f, true);
        private static final long IDLE_NANOS = TimeUnit.SECONDS.toNanos(1);
        private final Iterator<Document> documents;
        private final CursorRegistry registry;
        private long usedAt;
        private boolean done;

        private Results(Iterator<Document> documents, CursorRegistry registry) {
            super(registry.generateCursorId());
            this.documents = documents;
            this.registry = registry;
        }

        /** The first batch, with a cursor to the others if there are any. */
        static QueryResult open(Iterator<Document> documents, int batchSize, CursorRegistry registry) {
            Results results = new Results(documents, registry);
            List<Document> batch = results.takeDocuments(batchSize);
            if (results.done) {
                return new QueryResult(batch);
            }
            registry.add(results);
            closeIdle(MAX_CURSORS, 0);
            return new QueryResult(batch, results);
        }

        @Override
        public synchronized List<Document> takeDocuments(int size) {
            List<Document> batch = new ArrayList<>();
            for (long bytes = 0; documents.hasNext() && bytes < REPLY_BYTES && (size == 0 || batch.size() < size); ) {
                Document document = documents.next();
                bytes += heapBytes(document);
                batch.add(document);
            }
            done = !documents.hasNext();
            synchronized (OPEN) {
                usedAt = System.nanoTime();
                if (done) {
                    OPEN.remove(getId());
                } else {
                    OPEN.put(getId(), this);
                }
            }
            return batch;
        }

        /** Closes the least recently used ones until `keep` are left, but none that was used within `nanos`. */
        static void closeIdle(int keep, long nanos) {
            synchronized (OPEN) {
                List<Results> idle = OPEN.values().stream().limit(Math.max(0, OPEN.size() - keep))
                    .filter(results -> System.nanoTime() - results.usedAt >= nanos).toList();
                for (Results results : idle) {
                    results.registry.remove(results);
                    OPEN.remove(results.getId());
                }
            }
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

        static {
            OLD.setCollectionUsageThreshold(OLD.getUsage().getMax() / 4 * 3); // of what a collection leaves
        }

        private long bytes;

        @Override
        public void accept(Document document) {
            bytes += heapBytes(document);
            if (bytes > STEP_BYTES) {
                bytes = 0;
                if (OLD.isCollectionUsageThresholdExceeded()) {
                    makeRoom();
                }
            }
        }

        /** Waits long enough for the results of clients that gave up to count as idle. */
        private static synchronized void makeRoom() {
            for (int attempt = 0; ; attempt++) {
                System.gc();
                if (!OLD.isCollectionUsageThresholdExceeded()) {
                    return;
                }
                if (attempt == 3) {
                    throw exceeded();
                }
                LockSupport.parkNanos(attempt * Results.IDLE_NANOS / 2);
                Results.closeIdle(0, Results.IDLE_NANOS);
            }
        }

        static MongoServerError exceeded() {
            return new MongoServerError(146, "ExceededMemoryLimit", "This needs more memory than the embedded server "
                + "has: add a limit or a filter, or use a MongoDB of your own (MONGO_URI)");
        }
    }

    private static final BsonType<Document> DOCUMENTS =
        new BsonType<>(Document[]::new, document -> document, document -> document);

    /** With an order; the library's have none, so H2 would serialize both for each comparison. */
    private static final BsonType<KeyValue> KEYS = new BsonType<>(
            KeyValue[]::new,
            key -> Map.of("", key.stream().toList()),
            document -> new KeyValue((Collection<?>) document.get(""))) {
        private final ValueComparator order = ValueComparator.ascWithoutListHandling();

        @Override
        public int compare(KeyValue left, KeyValue right) {
            for (int i = 0; i < Math.min(left.size(), right.size()); i++) {
                int result = order.compare(left.get(i), right.get(i));
                if (result != 0) {
                    return result;
                }
            }
            return Integer.compare(left.size(), right.size());
        }
    };

    /** What a map holds as BSON. */
    private static class BsonType<T> extends BasicDataType<T> {
        private final IntFunction<T[]> array;
        private final Function<T, Map<String, ?>> toDocument;
        private final Function<Document, T> ofDocument;

        BsonType(IntFunction<T[]> array, Function<T, Map<String, ?>> toDocument, Function<Document, T> ofDocument) {
            this.array = array;
            this.toDocument = toDocument;
            this.ofDocument = ofDocument;
        }

        @Override
        public int getMemory(T value) {
            return heapBytes(toDocument.apply(value));
        }

        @Override
        public void write(WriteBuffer out, T value) {
            ByteBuf bson = bsonOf(toDocument.apply(value));
            out.putVarInt(bson.readableBytes()).put(bson.nioBuffer());
        }

        @Override
        public T read(ByteBuffer in) {
            byte[] bson = new byte[DataUtils.readVarInt(in)];
            in.get(bson);
            return ofDocument.apply(BsonDecoder.decodeBson(Unpooled.wrappedBuffer(bson)));
        }

        @Override
        public T[] createStorage(int size) {
            return array.apply(size);
        }
    }

    private static void makeDurable(MVStore store) {
        if (!store.isClosed()) {
            store.commit(); // hands over to H2's writer threads,
            store.executeFilestoreOperation(() -> { }); // and this waits for them
        }
    }

    private static ByteBuf bsonOf(Map<String, ?> document) {
        ByteBuf bson = Unpooled.buffer(512);
        BsonEncoder.encodeDocument(document, bson);
        return bson;
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
