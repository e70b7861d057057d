#!/bin/sh
# Removes from the virtual environment what no service of the containers uses: half of the image.
set -eu
cd /opt/venv/lib/python3.11/site-packages
find pandas numpy scipy pyarrow -type d -name tests -prune -exec rm -r {} +
rm -r pyarrow/include pyarrow/*flight* pyarrow/*s3* pyspark/examples pyspark/jars/connect-repl
find babel/locale-data -name '*.dat' -not -name 'en*' -not -name root.dat -delete
cd pyspark/jars
# Hive, Kubernetes, YARN, the Scala shell.
rm hive-* spark-hive* datanucleus-* derby* HikariCP-* javax.jdo-* jdo-* libfb303-* libthrift-* jline-2.* super-csv-* \
  kubernetes-* spark-kubernetes* spark-yarn* vertx-* volcano-* zjsonpatch-* spark-repl*
# Native code for other systems.
arch=$(uname -m | sed 's/arm64/aarch_64/; s/aarch64/aarch_64/')
find . -name 'netty-*-*-*.jar' | grep -E 'osx|windows|riscv64|linux-' | grep -v "linux-$arch" | xargs rm -f
zip -qd rocksdbjni-*.jar '*.dll' '*.jnilib' '*musl*' '*ppc64le*' '*s390x*' '*riscv64*' '*linux32*' $([ "$arch" = x86_64 ] && echo '*aarch64*' || echo '*linux64*')
# Symbols for debuggers.
cd ../..
find . -name '*.so' -size +1M -not -path '*.libs/*' -exec strip --strip-unneeded {} +
# What is left works.
python -c "import pandas, pyarrow.dataset, pyarrow.parquet, scipy.spatial.distance, scipy.stats, airflow.sdk, pyspark.ml"
