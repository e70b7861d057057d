import de.bwaldvogel.mongo.MongoCollection;
import de.bwaldvogel.mongo.MongoDatabase;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.CollectionOptions;
import de.bwaldvogel.mongo.backend.CursorRegistry;
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
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.h2.mvstore.Cursor;
import org.h2.mvstore.DataUtils;
import org.h2.mvstore.MVMap;
import org.h2.mvstore.MVStore;
import org.h2.mvstore.WriteBuffer;
import org.h2.mvstore.type.BasicDataType;

public final class EmbeddedMongo {
    public static void main(String[] args) throws Exception {
        System.setProperty("slf4j.internal.verbosity", "ERROR");
        MVStore store = new MVStore.Builder()
            .fileName(args[1])
            .keysPerPage(Integer.getInteger("keys", 48))
            .autoCommitBufferSize(Integer.getInteger("buf", 1024))
            .autoCompactFillRate(Integer.getInteger("fill", 90))
            .cacheSize(Integer.getInteger("cache", 16))
            .open();
        store.setRetentionTime(Integer.getInteger("ret", 10000));
        if (Boolean.getBoolean("cstart")) { long t = System.nanoTime(); store.compactFile(Integer.getInteger("cms", 2000)); System.out.println("compacted " + (System.nanoTime() - t) / 1000000); store.setRetentionTime(Integer.getInteger("ret", 10000)); }
        MongoServer server = new MongoServer(new Backend(store));
        try { server.bind("127.0.0.1", Integer.parseInt(args[0])); } catch (Exception e) { e.printStackTrace(); System.exit(1); }
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdown));
        ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();
        timer.scheduleWithFixedDelay(store::sync, 1, 1, TimeUnit.SECONDS);
        System.out.println("ready");
    }

    static final class Backend extends H2Backend {
        private static final Set<String> READS = Set.of("find", "getMore", "count", "distinct", "ismaster", "isMaster", "ping", "hello", "buildinfo");
        private volatile boolean closing;

        Backend(MVStore store) {
            super(store);
            version(new MongoVersion() {
                @Override public List<Integer> getVersionArray() { return List.of(4, 4, 0); }
                @Override public int getWireVersion() { return 9; }
            });
        }
        @Override public Document handleMessage(MongoMessage message) {
            try {
                return super.handleMessage(message);
            } finally {
                MVStore store = getMvStore();
                if (!READS.contains(message.getDocument().keySet().iterator().next())) {
                    store.commit();
                    store.executeFilestoreOperation(() -> { });
                }
                if (store.isClosed() && !closing) Runtime.getRuntime().halt(1);
            }
        }
        @Override protected MongoDatabase openOrCreateDatabase(String name) { return new Database(name, getMvStore(), getCursorRegistry()); }
        @Override public void close() { closing = true; getMvStore().close(Integer.getInteger("closems", 2000)); super.close(); }

        final class Database extends H2Database {
            Database(String name, MVStore store, CursorRegistry cursors) { super(name, store, cursors); }
            @Override protected MongoCollection<Object> openOrCreateCollection(String name, CollectionOptions options) {
                String full = getFullCollectionNamespace(name);
                MVMap<Object, Document> data = getMvStore().openMap("databases." + full, new MVMap.Builder<Object, Document>().valueType(new BsonType()));
                return new Documents(this, name, options, data, getMvStore().openMap("meta." + full), cursorRegistry);
            }
            @Override protected Index<Object> openOrCreateUniqueIndex(String collection, String index, List<IndexKey> keys, boolean sparse) {
                getMvStore().openMap(getFullCollectionNamespace(collection) + "._index_" + index, new MVMap.Builder<KeyValue, Object>().keyType(new KeyType()));
                return super.openOrCreateUniqueIndex(collection, index, keys, sparse);
            }
        }
    }

    static final class Documents extends H2Collection {
        private final MVMap<Object, Document> data;
        private long next;
        Documents(MongoDatabase database, String name, CollectionOptions options, MVMap<Object, Document> data, MVMap<String, Object> meta, CursorRegistry cursors) {
            super(database, name, options, data, meta, cursors);
            this.data = data;
            next = data.isEmpty() ? 0 : (Long) data.lastKey() + 1;
        }
        @Override protected Object addDocumentInternal(Document document) { data.put(next, document); return next++; }
        @Override public Stream<Document> queryAllAsStream() { return data.values().stream(); }
        @Override protected QueryResult matchDocuments(Document query, Document orderBy, int skip, int limit, int batchSize, Document fields) {
            if (isNaturalDescending(orderBy)) {
                Cursor<Object, Document> newestFirst = data.cursor(null, null, true);
                Iterable<Object> keys = () -> newestFirst;
                Stream<Document> documents = StreamSupport.stream(keys.spliterator(), false).map(key -> newestFirst.getValue());
                return matchDocumentsFromStream(documents, query, null, skip, limit, batchSize, fields);
            }
            var order = deriveComparator(orderBy);
            if (order == null || limit <= 0) return super.matchDocuments(query, orderBy, skip, limit, batchSize, fields);
            PriorityQueue<Document> first = new PriorityQueue<>(order.reversed());
            for (Document document : data.values()) {
                if (documentMatchesQuery(document, query)) {
                    first.add(document);
                    if (first.size() > skip + limit) first.poll();
                }
            }
            return matchDocumentsFromStream(first.stream(), query, orderBy, skip, limit, batchSize, fields);
        }
    }

    static final class BsonType extends BasicDataType<Document> {
        @Override public int getMemory(Document document) { return size(document); }
        @Override public void write(WriteBuffer out, Document document) { byte[] b = encode(document); out.putVarInt(b.length).put(b); }
        @Override public Document read(ByteBuffer in) { return decode(in); }
        @Override public Document[] createStorage(int n) { return new Document[n]; }
    }

    static final class KeyType extends BasicDataType<KeyValue> {
        private static final ValueComparator ORDER = ValueComparator.ascWithoutListHandling();
        @Override public int compare(KeyValue a, KeyValue b) {
            int order = Integer.compare(a.size(), b.size());
            for (int i = 0; order == 0 && i < a.size(); i++) order = ORDER.compare(a.get(i), b.get(i));
            return order;
        }
        @Override public int getMemory(KeyValue key) { int n = 64; for (Object v : key) n += size(v); return n; }
        @Override public void write(WriteBuffer out, KeyValue key) { byte[] b = encode(Map.of("", key.stream().toList())); out.putVarInt(b.length).put(b); }
        @Override public KeyValue read(ByteBuffer in) { return new KeyValue((Collection<?>) decode(in).get("")); }
        @Override public KeyValue[] createStorage(int n) { return new KeyValue[n]; }
    }

    static byte[] encode(Map<String, ?> document) {
        ByteBuf out = Unpooled.buffer(512);
        BsonEncoder.encodeDocument(document, out);
        byte[] bytes = new byte[out.readableBytes()];
        out.readBytes(bytes);
        return bytes;
    }
    static Document decode(ByteBuffer in) {
        byte[] bytes = new byte[DataUtils.readVarInt(in)];
        in.get(bytes);
        return BsonDecoder.decodeBson(Unpooled.wrappedBuffer(bytes));
    }
    static int size(Object value) {
        if (value instanceof Map<?, ?> map) { int n = 96; for (var e : map.entrySet()) n += 104 + size(e.getValue()); return n; }
        if (value instanceof Collection<?> list) { int n = 48; for (Object v : list) n += size(v); return n; }
        return value instanceof String text ? 48 + text.length() : 24;
    }
}
