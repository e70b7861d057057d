import de.bwaldvogel.mongo.MongoCollection;
import de.bwaldvogel.mongo.MongoDatabase;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.AbstractUniqueIndex;
import de.bwaldvogel.mongo.backend.CollectionOptions;
import de.bwaldvogel.mongo.backend.CursorRegistry;
import de.bwaldvogel.mongo.backend.DocumentComparator;
import de.bwaldvogel.mongo.backend.Index;
import de.bwaldvogel.mongo.backend.IndexKey;
import de.bwaldvogel.mongo.backend.KeyValue;
import de.bwaldvogel.mongo.backend.QueryResult;
import de.bwaldvogel.mongo.backend.ValueComparator;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.h2.H2Collection;
import de.bwaldvogel.mongo.backend.h2.H2Database;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.bson.BsonDecoder;
import de.bwaldvogel.mongo.wire.bson.BsonEncoder;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.h2.mvstore.Cursor;
import org.h2.mvstore.DataUtils;
import org.h2.mvstore.MVMap;
import org.h2.mvstore.MVStore;
import org.h2.mvstore.WriteBuffer;
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
 * MiB the line stood still for 300 to 600 ms every 3 s (10 requests a second, p99 543 ms). With 2 MiB it does not (p99
 * 52 ms); batches then go in at 9,400/s instead of 11,600, and 80,000 documents, 60,000 of them alone, take 470 MB
 * instead of 500. A lower fill rate (50, 70) stops the pauses, too, but then the file grows on.
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

    /** Time for compaction on SIGTERM: enough to bring 128 MB to 60 MB. */
    private static final int COMPACT_MILLIS = 2_000;

    public static void main(String[] args) {
        if (args.length != 2) {
            System.err.println("usage: EmbeddedMongo PORT FILE");
            System.exit(2);
        }
        System.setProperty("slf4j.internal.verbosity", "ERROR"); // silent about the missing log library
        try {
            MVStore store = new MVStore.Builder()
                .fileName(args[1])
                .keysPerPage(16) // a random key rewrites its page: small pages, little to rewrite
                .autoCommitBufferSize(2 * 1024) // KiB; the default of 1 MiB splits a batch of 500 into many commits
                .open();
            store.setRetentionTime(RETENTION_MILLIS);
            MongoServer server = new MongoServer(new Backend(store));
            server.bind("127.0.0.1", Integer.parseInt(args[0]));
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
            if (READS.contains(message.getDocument().keySet().iterator().next())) {
                try {
                    return super.handleMessage(message);
                } finally { // what was read may be of a command that is not committed yet
                    uncommitted.readLock().lock();
                    uncommitted.readLock().unlock();
                    endIfFailed();
                }
            }
            uncommitted.writeLock().lock();
            try {
                return super.handleMessage(message);
            } finally {
                try {
                    makeDurable();
                } finally {
                    endIfFailed(); // before those who wait may go on
                    uncommitted.writeLock().unlock();
                }
            }
        }

        private void makeDurable() {
            MVStore store = getMvStore();
            if (!store.isClosed()) {
                store.commit(); // hands over to H2's writer threads,
                store.executeFilestoreOperation(() -> { }); // and this waits for them
            }
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

            private MVMap<KeyValue, Object> openIndex(String collection, String index) {
                return getMvStore().openMap(
                    getFullCollectionNamespace(collection) + "._index_" + index,
                    new MVMap.Builder<KeyValue, Object>().keyType(new KeyType()));
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
        private long next;

        Documents(
                MongoDatabase database, String name, CollectionOptions options,
                MVMap<Object, Document> data, MVMap<String, Object> meta, CursorRegistry cursors) {
            super(database, name, options, data, meta, cursors);
            this.data = data;
            next = data.isEmpty() ? 0 : (Long) data.lastKey() + 1;
        }

        @Override
        protected Object addDocumentInternal(Document document) {
            data.put(next, document);
            return next++;
        }

        /** For aggregations, so also for count_documents: the library would first hold all documents in memory. */
        @Override
        public Stream<Document> queryAllAsStream() {
            return data.values().stream();
        }

        /** Newest first by `$natural` reads from the end; a sort with a limit holds no more than the limit. */
        @Override
        protected QueryResult matchDocuments(
                Document query, Document orderBy, int skip, int limit, int batchSize, Document fields) {
            boolean newestFirst = isNaturalDescending(orderBy);
            DocumentComparator order = newestFirst ? null : deriveComparator(orderBy);
            boolean page = order == null && query.isEmpty() && skip > 0;
            if (newestFirst || page) { // a page begins at its place: what is skipped is not read
                long size = data.sizeAsLong();
                if (page && skip >= size) {
                    return new QueryResult();
                }
                Object from = page ? data.getKey(newestFirst ? size - 1 - skip : skip) : null;
                Cursor<Object, Document> cursor = data.cursor(from, null, newestFirst);
                Iterable<Object> positions = () -> cursor;
                Stream<Document> found =
                    StreamSupport.stream(positions.spliterator(), false).map(position -> cursor.getValue());
                return matchDocumentsFromStream(found, query, null, page ? 0 : skip, limit, batchSize, fields);
            }
            if (order == null || limit <= 0) {
                return super.matchDocuments(query, orderBy, skip, limit, batchSize, fields);
            }
            PriorityQueue<Document> first = new PriorityQueue<>(order.reversed());
            for (Document document : data.values()) {
                if (documentMatchesQuery(document, query)) {
                    first.add(document);
                    if (first.size() > skip + limit) {
                        first.poll();
                    }
                }
            }
            return matchDocumentsFromStream(first.stream(), query, orderBy, skip, limit, batchSize, fields);
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

    private static void encode(Map<String, ?> document, WriteBuffer out) {
        ByteBuf bson = Unpooled.buffer(512);
        BsonEncoder.encodeDocument(document, bson);
        out.putVarInt(bson.readableBytes()).put(bson.nioBuffer());
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
