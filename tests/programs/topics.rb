# A server that handles each request in a thread, with a C extension that has a bug: topics.rb SOCKET
require 'socket'
require 'parser'

class TopicController
  def show(id)
    render({ topic: id }.to_s)
  end

  def render(json)
    FastParser.parse(json)
  end
end

def handle_request(connection)
  id = connection.gets[%r{\AGET /topics/(\d+) }, 1]
  connection.puts(TopicController.new.show(id))
end

UNIXServer.open(ARGV.fetch(0)) do |server|
  loop do
    Thread.new(server.accept) { |connection| handle_request(connection) }
  end
end
